//! Who asks: credentials as Docker's clients send them, challenges, and tokens.

use crate::Result;
use crate::connection::{Connection, full};
use crate::endpoint::{Endpoint, RegistryOptions, is_insecure};
use crate::error::RegistryError;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use hyper::{HeaderMap, Method, Request, Uri};
use serde::Deserialize;
use std::collections::BTreeMap;

/// Longest answer of a token server that is read; tokens are some KiB.
const TOKEN_BYTES_MAX: u64 = 1 << 20;
/// What token servers know Docker's clients by; some answer nobody else.
const CLIENT_ID: &str = "docker";

/// What `X-Registry-Auth` holds.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "lowercase")]
pub struct Credentials {
    #[serde(deserialize_with = "null_default")]
    pub username: String,
    #[serde(deserialize_with = "null_default")]
    pub password: String,
    /// `username:password` in base64.
    #[serde(deserialize_with = "null_default")]
    pub auth: String,
    #[serde(deserialize_with = "null_default")]
    pub serveraddress: String,
    #[serde(deserialize_with = "null_default")]
    pub identitytoken: String,
    #[serde(deserialize_with = "null_default")]
    pub registrytoken: String,
}

fn null_default<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

// Secrets must not reach a log.
impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials({:?})", self.username)
    }
}

impl Credentials {
    /// Reads the value of an `X-Registry-Auth` header: JSON in base64, in either alphabet, with or without padding.
    pub fn decode(header: &str) -> Result<Self> {
        let credentials: Option<Self> = decode_json("X-Registry-Auth", header)?;
        credentials
            .unwrap_or_default()
            .completed()
            .ok_or_else(|| wrong_header("X-Registry-Auth", "its auth is not username:password"))
    }

    /// Reads the value of an `X-Registry-Config` header: credentials by registry, as a build may need several.
    pub fn decode_config(header: &str) -> Result<BTreeMap<String, Self>> {
        let all: Option<BTreeMap<String, Self>> = decode_json("X-Registry-Config", header)?;
        all.unwrap_or_default()
            .into_iter()
            .map(|(registry, credentials)| {
                let credentials = credentials.completed();
                let wrong = || wrong_header("X-Registry-Config", "an auth in it is not username:password");
                Ok((registry, credentials.ok_or_else(wrong)?))
            })
            .collect()
    }

    /// Fills in name and password from `auth`; `None` where that is malformed.
    pub fn completed(mut self) -> Option<Self> {
        if self.username.is_empty() && !self.auth.is_empty() {
            let text = String::from_utf8(STANDARD.decode(self.auth.trim()).ok()?).ok()?;
            let (name, password) = text.split_once(':')?;
            (self.username, self.password) = (name.to_owned(), password.trim_end_matches('\0').to_owned());
        }
        Some(self)
    }

    fn basic(&self) -> Option<HeaderValue> {
        if self.username.is_empty() {
            return None;
        }
        let text = STANDARD.encode(format!("{}:{}", self.username, self.password));
        secret(&format!("Basic {text}"))
    }
}

fn wrong_header(name: &str, reason: impl ToString) -> RegistryError {
    RegistryError::Invalid {
        what: format!("{name} header"),
        reason: reason.to_string(),
    }
}

/// `None` for an empty header, and for `null`: what a client sends that has nothing to say.
fn decode_json<T: serde::de::DeserializeOwned>(name: &str, header: &str) -> Result<Option<T>> {
    let text: String = header
        .trim()
        .chars()
        .filter(|c| *c != '=')
        .map(|c| match c {
            '+' => '-',
            '/' => '_',
            other => other,
        })
        .collect();
    if text.is_empty() {
        return Ok(None);
    }
    let padding = "=".repeat((4 - text.len() % 4) % 4);
    let bytes = URL_SAFE
        .decode(format!("{text}{padding}"))
        .map_err(|error| wrong_header(name, error))?;
    serde_json::from_slice(&bytes).map_err(|error| wrong_header(name, error))
}

fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// One scheme of a `WWW-Authenticate` header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    Basic,
    Bearer {
        realm: String,
        service: String,
        scope: String,
    },
}

/// Every challenge that is understood, in order.
pub(crate) fn parse_challenges(headers: &HeaderMap) -> Vec<Challenge> {
    let values = headers.get_all(WWW_AUTHENTICATE).iter();
    values
        .filter_map(|value| value.to_str().ok())
        .filter_map(parse_challenge)
        .collect()
}

fn parse_challenge(text: &str) -> Option<Challenge> {
    let (scheme, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let (mut realm, mut service, mut scope) = (String::new(), String::new(), String::new());
    for (key, value) in parse_parameters(rest) {
        match key.to_ascii_lowercase().as_str() {
            "realm" => realm = value,
            "service" => service = value,
            "scope" => scope = value,
            _ => {}
        }
    }
    (!realm.is_empty()).then_some(Challenge::Bearer {
        realm,
        service,
        scope,
    })
}

/// `key="value"` and `key=value`, separated by commas.
fn parse_parameters(text: &str) -> Vec<(String, String)> {
    let mut parameters = Vec::new();
    let mut rest = text;
    while let Some((key, after)) = rest.split_once('=') {
        let key = key.trim_matches([' ', ',']).to_owned();
        let (value, next) = if let Some(quoted) = after.strip_prefix('"') {
            read_quoted(quoted)
        } else {
            let end = after.find(',').unwrap_or(after.len());
            (after[..end].trim().to_owned(), &after[end..])
        };
        parameters.push((key, value));
        rest = next;
    }
    parameters
}

fn read_quoted(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

/// What a token server answered.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct TokenAnswer {
    token: String,
    access_token: String,
    pub refresh_token: String,
}

/// Answers a challenge: the value for `Authorization`, and the token server's answer where there was one.
pub(crate) async fn answer_challenge(
    options: &RegistryOptions,
    endpoint: &Endpoint,
    credentials: Option<&Credentials>,
    challenges: &[Challenge],
    scopes: &[String],
    wants_refresh: bool,
) -> Result<(HeaderValue, TokenAnswer)> {
    let refused = |reason: &str| RegistryError::Unauthorized {
        host: endpoint.host.clone(),
        what: "the request".to_owned(),
        reason: reason.to_owned(),
    };
    for challenge in challenges {
        match challenge {
            Challenge::Bearer {
                realm,
                service,
                scope,
            } => {
                if let Some(token) = credentials.filter(|known| !known.registrytoken.is_empty()) {
                    let value = secret(&format!("Bearer {}", token.registrytoken));
                    let value = value.ok_or_else(|| refused("the registry token is malformed"))?;
                    return Ok((value, TokenAnswer::default()));
                }
                let realm = check_realm(options, endpoint, realm)?;
                let mut wanted = scopes.to_vec();
                if wanted.is_empty() && !scope.is_empty() {
                    wanted.push(scope.clone());
                }
                let answer =
                    fetch_token(options, &realm, service, &wanted, credentials, wants_refresh).await?;
                let token = if answer.token.is_empty() {
                    &answer.access_token
                } else {
                    &answer.token
                };
                let value = secret(&format!("Bearer {token}")).filter(|_| !token.is_empty());
                let value = value.ok_or_else(|| refused("the token server gave no token"))?;
                return Ok((value, answer));
            }
            Challenge::Basic => {
                if let Some(value) = credentials.and_then(Credentials::basic) {
                    return Ok((value, TokenAnswer::default()));
                }
            }
        }
    }
    if challenges.contains(&Challenge::Basic) {
        return Err(refused("no basic auth credentials; log in first"));
    }
    Err(refused("it asks for authentication of an unknown kind"))
}

/// The token server must be as trustworthy as the registry that named it: what is sent to it is a password.
fn check_realm(options: &RegistryOptions, endpoint: &Endpoint, realm: &str) -> Result<Uri> {
    let wrong = |reason: &str| RegistryError::Unexpected {
        host: endpoint.host.clone(),
        what: "the request".to_owned(),
        reason: format!("its token server {realm:?} {reason}"),
    };
    let uri: Uri = realm.parse().map_err(|_| wrong("is no URL"))?;
    let authority = uri.authority().ok_or_else(|| wrong("is no URL"))?;
    if authority.as_str().contains('@') {
        return Err(wrong("has credentials in its URL"));
    }
    match uri.scheme_str() {
        Some("https") => Ok(uri),
        Some("http") if !endpoint.is_verified && is_insecure(options, authority.as_str()) => Ok(uri),
        Some("http") => Err(wrong("is refused: a password would be sent to it without TLS")),
        _ => Err(wrong("is no http URL")),
    }
}

async fn fetch_token(
    options: &RegistryOptions,
    realm: &Uri,
    service: &str,
    scopes: &[String],
    credentials: Option<&Credentials>,
    wants_refresh: bool,
) -> Result<TokenAnswer> {
    const WHAT: &str = "the token server";
    let host = realm.authority().map(ToString::to_string).unwrap_or_default();
    let endpoint = Endpoint {
        is_tls: realm.scheme_str() == Some("https"),
        is_verified: !is_insecure(options, &host),
        host,
        prefix: String::new(),
        takes_credentials: true,
    };
    let connection = Connection::new(options, &endpoint)?;
    let request = match credentials.filter(|known| !known.identitytoken.is_empty()) {
        Some(known) => refresh_request(realm, service, scopes, &known.identitytoken),
        None => token_request(realm, service, scopes, credentials, wants_refresh),
    };
    let request = request.map_err(|error| RegistryError::Unexpected {
        host: endpoint.host.clone(),
        what: WHAT.to_owned(),
        reason: error.to_string(),
    })?;
    let response = connection.send(request, WHAT).await?;
    if !response.status().is_success() {
        return Err(connection.failure(response, "the credentials").await);
    }
    let bytes = connection
        .read_all(response.into_body(), TOKEN_BYTES_MAX, WHAT)
        .await?;
    serde_json::from_slice(&bytes).map_err(|error| RegistryError::Unexpected {
        host: endpoint.host,
        what: WHAT.to_owned(),
        reason: error.to_string(),
    })
}

type TokenRequest = Result<Request<crate::connection::Body>, hyper::http::Error>;

fn token_request(
    realm: &Uri,
    service: &str,
    scopes: &[String],
    credentials: Option<&Credentials>,
    wants_refresh: bool,
) -> TokenRequest {
    let mut query: Vec<(&str, &str)> = Vec::new();
    if !service.is_empty() {
        query.push(("service", service));
    }
    query.extend(scopes.iter().map(|scope| ("scope", scope.as_str())));
    let basic = credentials.and_then(Credentials::basic);
    if let (Some(known), true) = (credentials, basic.is_some()) {
        query.push(("account", &known.username));
    }
    if wants_refresh {
        query.extend([("offline_token", "true"), ("client_id", CLIENT_ID)]);
    }
    let separator = if realm.query().is_some() { '&' } else { '?' };
    let mut request = Request::builder().uri(format!("{realm}{separator}{}", encode_form(&query)));
    if let Some(basic) = basic {
        request = request.header(AUTHORIZATION, basic);
    }
    request.body(full(""))
}

fn refresh_request(realm: &Uri, service: &str, scopes: &[String], token: &str) -> TokenRequest {
    let scope = scopes.join(" ");
    let form = encode_form(&[
        ("grant_type", "refresh_token"),
        ("service", service),
        ("scope", &scope),
        ("client_id", CLIENT_ID),
        ("refresh_token", token),
    ]);
    Request::builder()
        .method(Method::POST)
        .uri(realm)
        .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(full(form))
}

/// `%2F`.
fn escape_byte(byte: u8) -> [char; 3] {
    let digit = |value: u8| {
        char::from_digit(value.into(), 16)
            .unwrap_or('0')
            .to_ascii_uppercase()
    };
    ['%', digit(byte >> 4), digit(byte & 15)]
}

/// A query or form, with everything escaped that is not unreserved.
pub(crate) fn encode_form(pairs: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (key, value) in pairs {
        if !text.is_empty() {
            text.push('&');
        }
        text.push_str(key);
        text.push('=');
        for byte in value.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    text.push(char::from(byte));
                }
                _ => text.extend(escape_byte(byte)),
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read_whatever_their_order() {
        let mut headers = HeaderMap::new();
        headers.append(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"x\""));
        headers.append(
            WWW_AUTHENTICATE,
            HeaderValue::from_static(
                r#"Bearer service="s, \"t\"",realm="https://a/token",scope="repository:x:pull,push""#,
            ),
        );
        let bearer = Challenge::Bearer {
            realm: "https://a/token".to_owned(),
            service: "s, \"t\"".to_owned(),
            scope: "repository:x:pull,push".to_owned(),
        };
        assert_eq!(parse_challenges(&headers), [Challenge::Basic, bearer]);
    }

    #[test]
    fn credentials_are_read_in_every_spelling_of_base64() {
        let json = r#"{"username":"a","password":"p?>~\u00e9","serveraddress":null}"#;
        for header in [
            URL_SAFE.encode(json),
            STANDARD.encode(json),
            URL_SAFE.encode(json).trim_end_matches('=').to_owned(),
        ] {
            let credentials = Credentials::decode(&header).unwrap();
            assert_eq!(credentials.password, "p?>~é");
        }
        let auth = format!(r#"{{"auth":"{}"}}"#, STANDARD.encode("u:p:q"));
        let credentials = Credentials::decode(&URL_SAFE.encode(auth)).unwrap();
        assert_eq!(
            (credentials.username.as_str(), credentials.password.as_str()),
            ("u", "p:q")
        );
        assert!(Credentials::decode("%").is_err());
        assert_eq!(Credentials::decode("e30=").unwrap(), Credentials::default());
        assert!(
            !format!(
                "{:?}",
                Credentials {
                    password: "secret".to_owned(),
                    ..Credentials::default()
                }
            )
            .contains("secret")
        );
    }

    #[test]
    fn passwords_go_to_no_token_server_without_tls() {
        let options = RegistryOptions::default();
        let endpoint = |host: &str, is_verified| Endpoint {
            is_tls: is_verified,
            is_verified,
            host: host.to_owned(),
            prefix: String::new(),
            takes_credentials: true,
        };
        let check = |endpoint: &Endpoint, realm: &str| check_realm(&options, endpoint, realm).is_ok();
        let (public, local) = (endpoint("example.com", true), endpoint("127.0.0.1:5000", false));
        assert!(check(&public, "https://auth.example.net/token"));
        assert!(!check(&public, "http://auth.example.net/token"));
        assert!(!check(&public, "http://127.0.0.1/token"));
        assert!(!check(&public, "https://user@auth.example.net/token"));
        assert!(check(&local, "http://127.0.0.1:5001/token"));
        assert!(!check(&local, "http://example.net/token"));
    }
}
