//! Addresses and values of a build as everybody may read them. Pure.
//!
//! A provenance goes to everybody who pulls the image, and records and errors to everybody who may ask the engine. So of a
//! URL they never have
//! - the user info: it is there for credentials alone, and the address without it is the same one;
//! - a query's values: which of them is a token only its server knows. The parameters' names stay, so that a reader sees
//!   what kind of address it was; a parameter without a value is hidden itself, for it may be the token.
//!
//! What is fetched, and what the keys of steps are made of, is the address as it was given.

use naru_build::check::is_secret;
use naru_build::configure::PREDEFINED_ARGUMENTS;

/// What stands for something hidden; BuildKit's word.
const HIDDEN: &str = "xxxxx";

/// One address: a URL, or git's `user@host:path`, whose user stays if it is the one that everybody has.
pub(super) fn redact_address(address: &str) -> String {
    if let Some((scheme, rest)) = address.split_once("://") {
        return format!("{scheme}://{}", redact_urls(rest));
    }
    match address.split_once('@') {
        Some((user, rest)) if user != "git" && !user.contains('/') && rest.contains(':') => rest.to_owned(),
        _ => address.to_owned(),
    }
}

/// A text with all its URLs redacted.
pub(super) fn redact_text(text: &str) -> String {
    let mut told = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("://") {
        let scheme = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '+' | '-' | '.');
        let opening = before.trim_end_matches(scheme).chars().next_back();
        // A quote may be part of a password, unless it was opened right before the URL.
        let quote = opening.filter(|letter| matches!(letter, '\'' | '`'));
        let is_end = |letter: char| letter.is_whitespace() || letter == '"' || Some(letter) == quote;
        let (urls, after) = after.split_at(after.find(is_end).unwrap_or(after.len()));
        told.push_str(before);
        told.push_str("://");
        told.push_str(&redact_urls(urls));
        rest = after;
    }
    told + rest
}

/// A build argument's value: nothing of one whose name tells of a secret, and no secrets of the addresses in any other.
pub(super) fn redact_argument(name: &str, value: &str) -> String {
    if is_secret(name) {
        return HIDDEN.to_owned();
    }
    // The address of a proxy needs no scheme.
    if PREDEFINED_ARGUMENTS.contains(&name) && !value.contains("://") {
        return value[host_begin(value)..].to_owned();
    }
    redact_text(value)
}

/// What stands behind a scheme's `://`, up to the end of the word: one URL, or several that are put together.
fn redact_urls(mut rest: &str) -> String {
    let mut told = String::with_capacity(rest.len());
    loop {
        let own = &rest[..rest.find("://").unwrap_or(rest.len())];
        let begin = host_begin(own);
        let end = own[begin..].find(['?', '#']).map_or(own.len(), |at| begin + at);
        told.push_str(&own[begin..end]);
        rest = &rest[end..];
        if let Some(query) = rest.strip_prefix('?') {
            let (query, after) = query.split_at(query.find('#').unwrap_or(query.len()));
            let parameters: Vec<String> = query.split('&').map(redact_parameter).collect();
            told.push('?');
            told.push_str(&parameters.join("&"));
            rest = after;
        }
        let Some((fragment, next)) = rest.split_once("://") else {
            return told + rest;
        };
        told.push_str(fragment);
        told.push_str("://");
        rest = next;
    }
}

/// Where the host begins in a URL without its scheme: behind the user info, if it has any.
fn host_begin(rest: &str) -> usize {
    let authority = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
    if let Some(at) = authority.rfind('@') {
        // `docker-image://name:tag@sha256:…` has none.
        return if authority[at..].starts_with("@sha256:") {
            0
        } else {
            at + 1
        };
    }
    // What ought to be a port and is none was meant as a password, one with a sign in it that should have been escaped.
    let port = authority.rsplit_once(':').map_or("", |(_, port)| port);
    let is_port = port.starts_with('$') || port.bytes().all(|byte| byte.is_ascii_digit() || byte == b']');
    match rest.rfind('@') {
        Some(at) if !is_port => at + 1,
        _ => 0,
    }
}

fn redact_parameter(parameter: &str) -> String {
    match parameter.split_once('=') {
        Some((_, "")) => parameter.to_owned(),
        Some((name, _)) => format!("{name}={HIDDEN}"),
        None if parameter.is_empty() => String::new(),
        None => HIDDEN.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_told_without_its_secrets() {
        for (given, told) in [
            ("https://host/x.git#main:sub", "https://host/x.git#main:sub"),
            ("https://me:word@host/x.git#main", "https://host/x.git#main"),
            ("https://token@host:8443/this:that", "https://host:8443/this:that"),
            ("https://:word@host/x", "https://host/x"),
            ("https://me:w@rd@host", "https://host"),
            ("https://me:w/o?r#d@host/x", "https://host/x"),
            ("ssh://git@host:22/x", "ssh://host:22/x"),
            ("http://[::1]:80/x@1", "http://[::1]:80/x@1"),
            ("http://host:80/@scope/x", "http://host:80/@scope/x"),
            (
                "https://host/x?token=abc&v=&bare#a",
                "https://host/x?token=xxxxx&v=&xxxxx#a",
            ),
            (
                "https://host/x?to=https://me:word@other",
                "https://host/x?to=xxxxx",
            ),
            ("https://host?a=b=c", "https://host?a=xxxxx"),
            ("git@host:a/b.git", "git@host:a/b.git"),
            ("me@host:a/b.git", "host:a/b.git"),
            ("a/b@c", "a/b@c"),
            ("", ""),
        ] {
            assert_eq!(redact_address(given), told, "{given}");
        }
    }

    #[test]
    fn an_argument_is_told_without_its_secrets() {
        for (name, given, told) in [
            ("A", "one two@three:four", "one two@three:four"),
            ("BASE", "busybox:1@sha256:ab", "busybox:1@sha256:ab"),
            (
                "BASE",
                "docker-image://busybox:1@sha256:ab",
                "docker-image://busybox:1@sha256:ab",
            ),
            ("NPM_TOKEN", "abc", "xxxxx"),
            ("INDEX", "https://me:word@host/simple", "https://host/simple"),
            (
                "INDEXES",
                "https://me:word@a/x https://b,https://me:word@c?k=word",
                "https://a/x https://b,https://c?k=xxxxx",
            ),
            (
                "JSON",
                "{\"url\":\"https://me:w'rd@host\",\"to\":\"a@b\"}",
                "{\"url\":\"https://host\",\"to\":\"a@b\"}",
            ),
            (
                "DATABASE",
                "jdbc:postgresql://me:word@host/x",
                "jdbc:postgresql://host/x",
            ),
            ("http_proxy", "me:word@host:3128", "host:3128"),
            ("HTTPS_PROXY", "http://me:word@host:3128", "http://host:3128"),
            ("no_proxy", "localhost,.example.com", "localhost,.example.com"),
        ] {
            assert_eq!(redact_argument(name, given), told, "{given}");
        }
    }

    #[test]
    fn a_file_is_told_without_the_secrets_of_its_addresses() {
        let given = "FROM x:1@sha256:ab\nADD https://me:word@host/a?t=word /a\nRUN git clone 'https://me:word@host' x@y \\\n\
            && curl https://$(cat /run/secrets/s)@host:$PORT/@x \"http://h/?a=word\" && : ://\n";
        let told = "FROM x:1@sha256:ab\nADD https://host/a?t=xxxxx /a\nRUN git clone 'https://host' x@y \\\n\
            && curl https://$(cat /run/secrets/s)@host:$PORT/@x \"http://h/?a=xxxxx\" && : ://\n";
        assert_eq!(redact_text(given), told);
    }
}
