//! `build --annotation`: what the documents around the image are annotated with. The daemon reads the attributes; here they
//! only get one form, that of `--output type=…,annotation.KEY=VALUE`.

use super::build_outputs::Outputs;
use crate::Arguments;
use crate::error::{CliError, Result};
use std::collections::BTreeMap;

/// Values by attribute: `annotation-index.KEY`. Those of `--annotation` count more than those of an output.
pub fn read(arguments: &Arguments, outputs: &Outputs) -> Result<BTreeMap<String, String>> {
    let mut all: BTreeMap<String, String> = outputs.annotations().cloned().collect();
    for text in arguments.list("annotation").filter(|text| !text.is_empty()) {
        all.extend(parse(text)?);
    }
    if !all.is_empty() && !outputs.has_image() {
        return Err(CliError::message(
            "only an image has documents to annotate, and none of the outputs is one: use type=image, registry, oci or \
             docker",
        ));
    }
    Ok(all)
}

/// `[DOCUMENT[[PLATFORM]],…:]KEY=VALUE`.
fn parse(text: &str) -> Result<Vec<(String, String)>> {
    let wrong = |what: &str| CliError::message(format!("invalid annotation {text:?}: {what}"));
    let (name, value) = text
        .split_once('=')
        .ok_or_else(|| wrong("it must be [DOCUMENT:]KEY=VALUE"))?;
    let (documents, key) = name.split_once(':').unwrap_or(("", name));
    if key.is_empty() {
        return Err(wrong("it has no key"));
    }
    let attribute = |document: &str| {
        let dash = if document.is_empty() { "" } else { "-" };
        (format!("annotation{dash}{document}.{key}"), value.to_owned())
    };
    Ok(documents.split(',').map(attribute).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_become_attributes() {
        let attributes = |text| {
            let read: Vec<(String, String)> = parse(text).unwrap();
            read.into_iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect::<Vec<_>>()
        };
        assert_eq!(attributes("a.b=c=d"), ["annotation.a.b=c=d"]);
        assert_eq!(
            attributes("index,manifest[linux/amd64]:a=b:c"),
            ["annotation-index.a=b:c", "annotation-manifest[linux/amd64].a=b:c"]
        );
        assert!(parse("a").is_err() && parse("index:=x").is_err());
    }
}
