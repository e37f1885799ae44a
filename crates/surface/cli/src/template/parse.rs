//! From the text of a template to its nodes.

use super::functions;
use crate::json::Value;

#[derive(Debug, Clone)]
pub enum Expression {
    Literal(Value),
    /// `.A.B`; empty for the dot alone.
    Field(Vec<String>),
    /// `$name.A`; the empty name is the root.
    Variable(String, Vec<String>),
    /// `(…).A`
    Of(Box<Expression>, Vec<String>),
    Call(String, Vec<Expression>),
}

#[derive(Debug)]
pub enum Node {
    Text(String),
    Print(Expression),
    Assign(String, Expression),
    If(Vec<(Expression, Vec<Node>)>, Vec<Node>),
    With(Expression, Vec<Node>, Vec<Node>),
    Range {
        names: Vec<String>,
        over: Expression,
        body: Vec<Node>,
        otherwise: Vec<Node>,
    },
}

/// Text between actions, or what is inside `{{…}}`.
#[derive(Debug)]
enum Piece {
    Text(String),
    Action(Vec<Token>),
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(String),
    Literal(Value),
    Field(Vec<String>),
    Variable(String, Vec<String>),
    Open,
    /// With the fields that follow it.
    Close(Vec<String>),
    Pipe,
    Assign,
    Comma,
}

/// How deep blocks, parentheses and pipes may nest; each costs some stack. Templates for people use three or four.
const NESTING_MAX: usize = 50;

pub fn parse(text: &str) -> Result<Vec<Node>, String> {
    let pieces = split(text)?;
    check_nesting(&pieces)?;
    let mut parser = Parser { pieces, at: 0 };
    let (nodes, end) = parser.nodes()?;
    match end {
        None => Ok(nodes),
        Some(tokens) => Err(format!("unexpected {}", keyword(&tokens).unwrap_or("action"))),
    }
}

fn split(text: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut rest = text;
    let mut trims = false;
    loop {
        let open = rest.find("{{");
        let mut plain = &rest[..open.unwrap_or(rest.len())];
        if trims {
            plain = plain.trim_start();
        }
        let Some(open) = open else {
            pieces.push(Piece::Text(plain.to_owned()));
            return Ok(pieces);
        };
        let mut inner = &rest[open + 2..];
        if let Some(after) = inner.strip_prefix("- ") {
            inner = after;
            plain = plain.trim_end();
        }
        pieces.push(Piece::Text(plain.to_owned()));
        let close = find_close(inner).ok_or("unclosed action")?;
        let mut body = &inner[..close];
        rest = &inner[close + 2..];
        trims = body.ends_with(" -");
        if trims {
            body = &body[..body.len() - 2];
        }
        if !body.trim_start().starts_with("/*") {
            pieces.push(Piece::Action(tokens(body)?));
        }
    }
}

fn check_nesting(pieces: &[Piece]) -> Result<(), String> {
    let mut blocks = 0_usize;
    for piece in pieces {
        let Piece::Action(tokens) = piece else { continue };
        match keyword(tokens) {
            Some("if" | "with" | "range") => blocks += 1,
            Some("end") => blocks = blocks.saturating_sub(1),
            _ => {}
        }
        // A pipe nests what is before it in what follows.
        let inner = tokens
            .iter()
            .filter(|token| matches!(token, Token::Open | Token::Pipe));
        if blocks.max(inner.count()) > NESTING_MAX {
            return Err(format!("nested too deep (at most {NESTING_MAX})"));
        }
    }
    Ok(())
}

/// Where `}}` ends the action, outside strings.
fn find_close(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut quote = None;
    let mut at = 0;
    while at < bytes.len() {
        match (quote, bytes[at]) {
            (Some(b'"'), b'\\') => at += 1,
            (Some(open), byte) if byte == open => quote = None,
            (None, byte @ (b'"' | b'`')) => quote = Some(byte),
            (None, b'}') if bytes.get(at + 1) == Some(&b'}') => return Some(at),
            _ => {}
        }
        at += 1;
    }
    None
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let (token, after) = next_token(rest, first)?;
        tokens.push(token);
        rest = after.trim_start();
    }
    Ok(tokens)
}

fn next_token(rest: &str, first: char) -> Result<(Token, &str), String> {
    match first {
        '(' => Ok((Token::Open, &rest[1..])),
        ')' => {
            let (path, after) = fields(&rest[1..]);
            Ok((Token::Close(path), after))
        }
        '|' => Ok((Token::Pipe, &rest[1..])),
        ',' => Ok((Token::Comma, &rest[1..])),
        ':' if rest.starts_with(":=") => Ok((Token::Assign, &rest[2..])),
        '=' => Ok((Token::Assign, &rest[1..])),
        '"' => quoted(rest),
        '`' => {
            let end = rest[1..].find('`').ok_or("unterminated raw quoted string")?;
            Ok((Token::Literal(Value::from(&rest[1..=end])), &rest[end + 2..]))
        }
        '.' => {
            let (path, after) = fields(rest);
            Ok((
                Token::Field(path.clone()),
                if path.is_empty() { &rest[1..] } else { after },
            ))
        }
        '$' => {
            let (name, after) = word(&rest[1..]);
            let (path, after) = fields(after);
            Ok((Token::Variable(name.to_owned(), path), after))
        }
        '-' | '0'..='9' => {
            let end = rest[1..]
                .find(|c: char| !(c.is_ascii_digit() || c == '.'))
                .map_or(rest.len(), |at| at + 1);
            let number = Value::parse(&rest.as_bytes()[..end])
                .map_err(|_| format!("bad number {:?}", &rest[..end]))?;
            Ok((Token::Literal(number), &rest[end..]))
        }
        _ => match word(rest) {
            ("", _) => Err(format!("unexpected {first:?} in operand")),
            ("true", after) => Ok((Token::Literal(Value::Bool(true)), after)),
            ("false", after) => Ok((Token::Literal(Value::Bool(false)), after)),
            ("nil", after) => Ok((Token::Literal(Value::Null), after)),
            (name, after) => Ok((Token::Word(name.to_owned()), after)),
        },
    }
}

fn word(text: &str) -> (&str, &str) {
    text.split_at(
        text.find(|c: char| !(c.is_alphanumeric() || c == '_'))
            .unwrap_or(text.len()),
    )
}

fn fields(text: &str) -> (Vec<String>, &str) {
    let mut path = Vec::new();
    let mut rest = text;
    while let Some(after) = rest.strip_prefix('.') {
        let (name, after) = word(after);
        if name.is_empty() {
            break;
        }
        path.push(name.to_owned());
        rest = after;
    }
    (path, rest)
}

/// A string in Go's quotes, whose escapes are read as JSON's.
fn quoted(rest: &str) -> Result<(Token, &str), String> {
    let mut escaped = false;
    for (at, character) in rest.char_indices().skip(1) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => {
                let text = &rest[..=at];
                let value = Value::parse(text.as_bytes()).map_err(|_| format!("bad string {text}"))?;
                return Ok((Token::Literal(value), &rest[at + 1..]));
            }
            _ => {}
        }
    }
    Err("unterminated quoted string".to_owned())
}

fn keyword(tokens: &[Token]) -> Option<&str> {
    match tokens.first() {
        Some(Token::Word(name)) => Some(name),
        _ => None,
    }
}

struct Parser {
    pieces: Vec<Piece>,
    at: usize,
}

type Block = (Vec<Node>, Option<Vec<Token>>);

impl Parser {
    /// Nodes up to the `else` or `end` that closes them, which is given too.
    fn nodes(&mut self) -> Result<Block, String> {
        let mut nodes = Vec::new();
        while self.at < self.pieces.len() {
            let piece = std::mem::replace(&mut self.pieces[self.at], Piece::Text(String::new()));
            self.at += 1;
            match piece {
                Piece::Text(text) => nodes.push(Node::Text(text)),
                Piece::Action(tokens) => match keyword(&tokens) {
                    Some("end" | "else") => return Ok((nodes, Some(tokens))),
                    Some("if") => nodes.push(self.parse_if(&tokens[1..])?),
                    Some("with") => {
                        let pipeline = pipeline(&tokens[1..])?;
                        let (body, otherwise) = self.body()?;
                        nodes.push(Node::With(pipeline, body, otherwise));
                    }
                    Some("range") => nodes.push(self.parse_range(&tokens[1..])?),
                    _ => nodes.push(parse_action(&tokens)?),
                },
            }
        }
        Ok((nodes, None))
    }

    fn body(&mut self) -> Result<(Vec<Node>, Vec<Node>), String> {
        let (body, end) = self.nodes()?;
        let end = end.ok_or("unexpected EOF")?;
        if keyword(&end) == Some("end") {
            return Ok((body, Vec::new()));
        }
        match self.nodes()? {
            (otherwise, Some(end)) if keyword(&end) == Some("end") => Ok((body, otherwise)),
            _ => Err("expected end".to_owned()),
        }
    }

    fn parse_if(&mut self, condition: &[Token]) -> Result<Node, String> {
        let mut condition = pipeline(condition)?;
        let mut branches = Vec::new();
        loop {
            let (body, end) = self.nodes()?;
            branches.push((condition, body));
            let end = end.ok_or("unexpected EOF")?;
            match end.as_slice() {
                [Token::Word(word)] if word == "end" => return Ok(Node::If(branches, Vec::new())),
                [Token::Word(_), Token::Word(word), rest @ ..] if word == "if" => condition = pipeline(rest)?,
                _ => match self.nodes()? {
                    (otherwise, Some(end)) if keyword(&end) == Some("end") => {
                        return Ok(Node::If(branches, otherwise));
                    }
                    _ => return Err("expected end".to_owned()),
                },
            }
        }
    }

    fn parse_range(&mut self, tokens: &[Token]) -> Result<Node, String> {
        let (names, over) = match tokens {
            [Token::Variable(value, _), Token::Assign, rest @ ..] => (vec![value.clone()], rest),
            [
                Token::Variable(key, _),
                Token::Comma,
                Token::Variable(value, _),
                Token::Assign,
                rest @ ..,
            ] => (vec![key.clone(), value.clone()], rest),
            _ => (Vec::new(), tokens),
        };
        let over = pipeline(over)?;
        let (body, otherwise) = self.body()?;
        Ok(Node::Range {
            names,
            over,
            body,
            otherwise,
        })
    }
}

fn parse_action(tokens: &[Token]) -> Result<Node, String> {
    match tokens {
        [Token::Variable(name, _), Token::Assign, rest @ ..] => {
            Ok(Node::Assign(name.clone(), pipeline(rest)?))
        }
        _ => pipeline(tokens).map(Node::Print),
    }
}

/// Commands between pipes; each gets the value before it as its last argument.
fn pipeline(tokens: &[Token]) -> Result<Expression, String> {
    let mut depth = 0;
    let mut result = None;
    let is_split = |token: &Token| {
        match token {
            Token::Open => depth += 1,
            Token::Close(_) => depth -= 1,
            _ => {}
        }
        depth == 0 && *token == Token::Pipe
    };
    for part in tokens.split(is_split) {
        result = Some(command(part, result)?);
    }
    result.ok_or_else(|| "missing value for command".to_owned())
}

fn command(tokens: &[Token], piped: Option<Expression>) -> Result<Expression, String> {
    let mut rest = tokens;
    let mut operands = Vec::new();
    let name = match tokens.first() {
        Some(Token::Word(name)) => {
            if !functions::NAMES.contains(&name.as_str()) {
                return Err(format!("function {name:?} not defined"));
            }
            rest = &tokens[1..];
            Some(name.clone())
        }
        _ => None,
    };
    while !rest.is_empty() {
        let (operand, after) = operand(rest)?;
        operands.push(operand);
        rest = after;
    }
    match (name, piped) {
        (Some(name), piped) => {
            operands.extend(piped);
            Ok(Expression::Call(name, operands))
        }
        (None, None) if operands.len() == 1 => Ok(operands.remove(0)),
        (None, None) if operands.is_empty() => Err("missing value for command".to_owned()),
        _ => Err("can't give argument to non-function".to_owned()),
    }
}

fn operand(tokens: &[Token]) -> Result<(Expression, &[Token]), String> {
    match &tokens[0] {
        Token::Literal(value) => Ok((Expression::Literal(value.clone()), &tokens[1..])),
        Token::Field(path) => Ok((Expression::Field(path.clone()), &tokens[1..])),
        Token::Variable(name, path) => Ok((Expression::Variable(name.clone(), path.clone()), &tokens[1..])),
        Token::Word(name) if functions::NAMES.contains(&name.as_str()) => {
            Ok((Expression::Call(name.clone(), Vec::new()), &tokens[1..]))
        }
        Token::Open => {
            let mut depth = 0;
            for (at, token) in tokens.iter().enumerate() {
                match token {
                    Token::Open => depth += 1,
                    Token::Close(path) => {
                        depth -= 1;
                        if depth == 0 {
                            let inner = pipeline(&tokens[1..at])?;
                            return Ok((Expression::Of(Box::new(inner), path.clone()), &tokens[at + 1..]));
                        }
                    }
                    _ => {}
                }
            }
            Err("unclosed left paren".to_owned())
        }
        other => Err(format!("unexpected {other:?} in operand")),
    }
}
