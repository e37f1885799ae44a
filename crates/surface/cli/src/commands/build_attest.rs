//! `build --sbom`, `--provenance`, `--attest`: what the daemon is to attest of the result. It reads the options; here they
//! only get one form.

use super::build_outputs::fields;
use crate::error::{CliError, Result};
use crate::http::escape_reference;
use crate::json::Value;
use crate::{Arguments, Session};
use std::collections::BTreeMap;

/// By their types, in the words of the daemon.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Attestations(BTreeMap<String, String>);

/// Reads the flags; of one type the last counts, `--sbom` and `--provenance` after `--attest`.
pub fn read(arguments: &Arguments) -> Result<Attestations> {
    let short = ["sbom", "provenance"].into_iter();
    let short = short.filter_map(|kind| Some((kind.to_owned(), short_form(arguments.text(kind)?))));
    let mut all = arguments
        .list("attest")
        .map(long_form)
        .collect::<Result<BTreeMap<_, _>>>()?;
    all.extend(short);
    all.retain(|_, options| !is_disabled(options));
    Ok(Attestations(all))
}

/// `true`, `false` or options.
fn short_form(value: &str) -> String {
    match value {
        "true" | "1" => String::new(),
        "false" | "0" => "disabled=true".to_owned(),
        options => options.to_owned(),
    }
}

/// `type=TYPE,key=value,…`
fn long_form(text: &str) -> Result<(String, String)> {
    let mut kind = None;
    let mut options = Vec::new();
    for field in fields(text) {
        match field.strip_prefix("type=") {
            Some(found) => kind = Some(found.to_owned()),
            None if field.contains(',') => options.push(format!("\"{field}\"")),
            None => options.push(field),
        }
    }
    let kind = kind.ok_or_else(|| {
        CliError::message(format!(
            "invalid attestation {text:?}: it needs a type, as in type=sbom or type=provenance,mode=max"
        ))
    })?;
    Ok((kind, options.join(",")))
}

fn is_disabled(options: &str) -> bool {
    let fields = fields(options);
    fields
        .iter()
        .any(|field| matches!(field.as_str(), "disabled=true" | "disabled=1"))
}

impl Attestations {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// For the daemon.
    pub fn to_value(&self) -> Value {
        let options = self.0.iter();
        Value::object(options.map(|(kind, options)| (kind.clone(), Value::from(options.as_str()))))
    }

    /// A daemon that does not know of attestations must not pass for one that made them.
    pub fn check(&self, session: &Session, id: &str) -> Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        let image = session
            .client
            .get(&format!("/images/{}/json", escape_reference(id)))?;
        if image.get("Attestations").items().is_empty() {
            return Err(CliError::message(
                "the image was built, but the daemon does not know of attestations: there are none with it",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_get_one_form() {
        assert_eq!(short_form("true"), "");
        assert_eq!(short_form("mode=max,version=v1"), "mode=max,version=v1");
        assert!(is_disabled(&short_form("false")) && !is_disabled("mode=min"));
        let read = long_form("type=provenance,mode=max,\"builder-id=https://ci/1,2\"").unwrap();
        let options = "mode=max,\"builder-id=https://ci/1,2\"".to_owned();
        assert_eq!(read, ("provenance".to_owned(), options));
        assert!(long_form("mode=max").is_err());
    }
}
