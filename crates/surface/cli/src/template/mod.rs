//! The Go templates of `--format`, as far as people use them: fields, pipelines, functions, variables, `if`, `range`,
//! `with`. Pure.

mod functions;
mod parse;

use crate::json::Value;
use parse::{Expression, Node};

/// A template that has been read.
#[derive(Debug)]
pub struct Template {
    nodes: Vec<Node>,
}

impl Template {
    pub fn parse(text: &str) -> Result<Self, String> {
        parse::parse(text).map(|nodes| Self { nodes })
    }

    pub fn render(&self, data: &Value) -> Result<String, String> {
        let mut state = State {
            root: data.clone(),
            variables: Vec::new(),
            output: String::new(),
        };
        state.walk(&self.nodes, data)?;
        Ok(state.output)
    }
}

struct State {
    root: Value,
    variables: Vec<(String, Value)>,
    output: String,
}

impl State {
    fn walk(&mut self, nodes: &[Node], dot: &Value) -> Result<(), String> {
        for node in nodes {
            match node {
                Node::Text(text) => self.output.push_str(text),
                Node::Print(pipeline) => {
                    let value = self.evaluate(pipeline, dot)?;
                    self.output.push_str(&show(&value));
                }
                Node::Assign(name, pipeline) => {
                    let value = self.evaluate(pipeline, dot)?;
                    self.variables.push((name.clone(), value));
                }
                Node::If(branches, otherwise) => self.walk_if(branches, otherwise, dot)?,
                Node::With(pipeline, body, otherwise) => {
                    let value = self.evaluate(pipeline, dot)?;
                    if is_truth(&value) {
                        self.scoped(body, &value)?;
                    } else {
                        self.scoped(otherwise, dot)?;
                    }
                }
                Node::Range {
                    names,
                    over,
                    body,
                    otherwise,
                } => self.walk_range(names, over, body, otherwise, dot)?,
            }
        }
        Ok(())
    }

    fn scoped(&mut self, nodes: &[Node], dot: &Value) -> Result<(), String> {
        let depth = self.variables.len();
        let outcome = self.walk(nodes, dot);
        self.variables.truncate(depth);
        outcome
    }

    fn walk_if(
        &mut self,
        branches: &[(Expression, Vec<Node>)],
        otherwise: &[Node],
        dot: &Value,
    ) -> Result<(), String> {
        for (condition, body) in branches {
            if is_truth(&self.evaluate(condition, dot)?) {
                return self.scoped(body, dot);
            }
        }
        self.scoped(otherwise, dot)
    }

    fn walk_range(
        &mut self,
        names: &[String],
        over: &Expression,
        body: &[Node],
        otherwise: &[Node],
        dot: &Value,
    ) -> Result<(), String> {
        let mut pairs: Vec<(Value, Value)> = match self.evaluate(over, dot)? {
            Value::List(items) => items
                .into_iter()
                .enumerate()
                .map(|(at, item)| (Value::Integer(at as i64), item))
                .collect(),
            Value::Map(entries) => entries
                .into_iter()
                .map(|(key, value)| (Value::Text(key), value))
                .collect(),
            Value::Null => Vec::new(),
            other => return Err(format!("range can't iterate over {}", show(&other))),
        };
        if let Some((Value::Text(_), _)) = pairs.first() {
            pairs.sort_by(|left, right| left.0.text().cmp(right.0.text()));
        }
        if pairs.is_empty() {
            return self.scoped(otherwise, dot);
        }
        for (key, item) in pairs {
            let depth = self.variables.len();
            match names {
                [value] => self.variables.push((value.clone(), item.clone())),
                [name, value] => {
                    self.variables.push((name.clone(), key));
                    self.variables.push((value.clone(), item.clone()));
                }
                _ => {}
            }
            let outcome = self.walk(body, &item);
            self.variables.truncate(depth);
            outcome?;
        }
        Ok(())
    }

    fn evaluate(&self, expression: &Expression, dot: &Value) -> Result<Value, String> {
        match expression {
            Expression::Literal(value) => Ok(value.clone()),
            Expression::Field(path) => follow(dot, path),
            Expression::Variable(name, path) => {
                let value = if name.is_empty() {
                    Some(&self.root)
                } else {
                    self.variables
                        .iter()
                        .rev()
                        .find(|(known, _)| known == name)
                        .map(|(_, value)| value)
                };
                follow(
                    value.ok_or_else(|| format!("undefined variable \"${name}\""))?,
                    path,
                )
            }
            Expression::Of(inner, path) => follow(&self.evaluate(inner, dot)?, path),
            Expression::Call(name, arguments) => {
                let values = arguments
                    .iter()
                    .map(|argument| self.evaluate(argument, dot))
                    .collect::<Result<Vec<_>, _>>()?;
                functions::call(name, &values)
            }
        }
    }
}

/// Follows field names. A name in capitals is a field of Docker's types and must be there; any other is a key of a map,
/// which may be absent.
fn follow(value: &Value, path: &[String]) -> Result<Value, String> {
    let mut value = value;
    for name in path {
        value = match value {
            Value::Null => return Ok(Value::Null),
            Value::Map(_) => match value.entry(name) {
                Some(entry) => entry,
                None if name.starts_with(char::is_uppercase) => {
                    return Err(format!(
                        "executing \"\" at <.{}>: map has no entry for key {name:?}",
                        path.join(".")
                    ));
                }
                None => return Ok(Value::Null),
            },
            other => {
                let shown = show(other);
                return Err(format!(
                    "executing \"\" at <.{}>: can't evaluate field {name} in {shown:?}",
                    path.join(".")
                ));
            }
        };
    }
    Ok(value.clone())
}

fn is_truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(fact) => *fact,
        Value::Text(text) => !text.is_empty(),
        Value::List(items) => !items.is_empty(),
        Value::Map(entries) => !entries.is_empty(),
        number => number.float() != 0.0,
    }
}

/// As Go's `%v` prints it.
fn show(value: &Value) -> String {
    match value {
        Value::Null => "<no value>".to_owned(),
        Value::Bool(fact) => fact.to_string(),
        Value::Integer(number) => number.to_string(),
        Value::Unsigned(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        Value::Text(text) => text.clone(),
        Value::List(items) => format!("[{}]", items.iter().map(show_inner).collect::<Vec<_>>().join(" ")),
        Value::Map(entries) => {
            let mut shown: Vec<String> = entries
                .iter()
                .map(|(key, value)| format!("{key}:{}", show_inner(value)))
                .collect();
            shown.sort();
            format!("map[{}]", shown.join(" "))
        }
    }
}

fn show_inner(value: &Value) -> String {
    if value.is_null() {
        "<nil>".to_owned()
    } else {
        show(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_print_what_go_prints() {
        let data = Value::parse(
            br#"{"ID":"abc","N":3,"L":["x","y"],"M":{"b":"2","a":"1"},"T":true,"E":[],"Name":"/n",
                 "NetworkSettings":{"Networks":{"bridge":{"IPAddress":"1.2.3.4"}}}}"#,
        )
        .unwrap();
        for (template, expected) in [
            ("{{.ID}}", "abc"),
            ("a {{ .ID }}-{{.N}}", "a abc-3"),
            ("{{json .L}}", r#"["x","y"]"#),
            ("{{.M}} {{.L}}", "map[a:1 b:2] [x y]"),
            ("{{range .L}}<{{.}}>{{end}}", "<x><y>"),
            ("{{range $k, $v := .M}}{{$k}}={{$v}};{{end}}", "a=1;b=2;"),
            ("{{range $i, $e := .L}}{{$i}}{{$e}}{{$.N}}{{end}}", "0x31y3"),
            ("{{if .T}}yes{{else}}no{{end}}", "yes"),
            ("{{if eq .N 4}}4{{else if eq .N 3}}3{{end}}", "3"),
            ("{{range .E}}x{{else}}none{{end}}", "none"),
            ("{{index .M \"a\"}}{{index .L 1}}", "1y"),
            ("{{.NetworkSettings.Networks.bridge.IPAddress}}", "1.2.3.4"),
            (
                "{{(index .NetworkSettings.Networks \"bridge\").IPAddress}}",
                "1.2.3.4",
            ),
            (
                "{{join .L \",\"}} {{upper .ID}} {{len .L}} {{title .ID}}",
                "x,y ABC 2 Abc",
            ),
            ("{{.ID | upper | printf \"%s!\"}}", "ABC!"),
            ("{{println .ID}}{{print 1 2}}", "abc\n1 2"),
            ("{{with .M}}{{.a}}{{end}}", "1"),
            ("{{$x := .ID}}{{$x}}", "abc"),
            ("a {{- .ID -}} b", "aabcb"),
            ("{{/* note */}}{{.M.absent}}", "<no value>"),
            ("{{and .T .N}} {{or .E .ID}} {{not .T}}", "3 abc false"),
            (
                "{{slice .ID 0 2}} {{truncate .ID 1}} {{split \"a,b\" \",\"}}",
                "ab a [a b]",
            ),
        ] {
            let rendered = Template::parse(template).unwrap().render(&data);
            assert_eq!(rendered.as_deref(), Ok(expected), "{template}");
        }
    }

    #[test]
    fn wrong_templates_are_refused() {
        for template in [
            "{{.ID",
            "{{end}}",
            "{{if .X}}",
            "{{nope .X}}",
            "{{range}}{{end}}",
            "{{\"a}}",
        ] {
            assert!(Template::parse(template).is_err(), "{template}");
        }
        let data = Value::parse(br#"{"A":1}"#).unwrap();
        assert!(
            Template::parse("{{.Missing}}")
                .unwrap()
                .render(&data)
                .unwrap_err()
                .contains("no entry for key")
        );
    }
}
