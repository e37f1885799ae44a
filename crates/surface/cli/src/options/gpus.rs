//! `--gpus`: a count, or fields between commas, as Docker's client reads them.

use super::mount::split_fields;
use super::{Object, Outcome, put};
use crate::json::Value;

/// One request for devices.
pub fn parse_gpus(text: &str) -> Outcome<Value> {
    let invalid = |reason: String| format!("invalid argument {text:?} for \"--gpus\" flag: {reason}");
    let mut request = Object::default();
    let mut count = None;
    let mut seen: Vec<String> = Vec::new();
    for field in split_fields(text) {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (field.as_str(), None),
        };
        if seen.iter().any(|other| other == key) {
            return Err(invalid(format!(
                "gpu request key '{key}' can be specified only once"
            )));
        }
        seen.push(key.to_owned());
        match (key, value) {
            ("count", Some(value)) | (value, None) => count = Some(parse_count(value).map_err(invalid)?),
            (key, Some(value)) => set_field(&mut request, key, value, &field).map_err(invalid)?,
        }
    }
    let is_seen = |key: &str| seen.iter().any(|other| other == key);
    request.set_some("Count", count.or((!is_seen("device")).then_some(1)));
    if !is_seen("capabilities") {
        request.set("Capabilities", capabilities(""));
    }
    Ok(Value::Map(request.0))
}

fn parse_count(text: &str) -> Outcome<i64> {
    if text == "all" {
        return Ok(-1);
    }
    text.parse()
        .map_err(|_| format!("invalid count ({text}): value must be either \"all\" or an integer"))
}

fn set_field(request: &mut Object, key: &str, value: &str, field: &str) -> Outcome<()> {
    match key {
        "driver" => request.set("Driver", value),
        "device" => request.set("DeviceIDs", words(value)),
        "capabilities" => request.set("Capabilities", capabilities(value)),
        "options" => {
            let mut options = Vec::new();
            for option in split_fields(value) {
                let (name, value) = option.split_once('=').unwrap_or((option.as_str(), ""));
                put(&mut options, name, Value::from(value));
            }
            request.set("Options", Value::Map(options));
        }
        other => return Err(format!("unexpected key '{other}' in '{field}'")),
    }
    Ok(())
}

/// Those asked for, and that it is a GPU.
fn capabilities(text: &str) -> Value {
    let mut all = words(text);
    all.push("gpu".to_owned());
    Value::List(vec![Value::from(all)])
}

fn words(text: &str) -> Vec<String> {
    let parts = text.split(',').filter(|part| !part.is_empty());
    parts.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpus_are_read_as_dockers_client_does() {
        let count = |text: &str| parse_gpus(text).unwrap().get("Count").text().to_owned();
        let number = |text: &str| match parse_gpus(text).unwrap().get("Count") {
            Value::Integer(count) => *count,
            other => panic!("{other:?}"),
        };
        assert_eq!((number("all"), number("2"), number("driver=x")), (-1, 2, 1));
        assert_eq!(count("device=0"), "");
        let several = parse_gpus("\"device=0,1\",capabilities=utility").unwrap();
        assert_eq!(several.get("DeviceIDs").items().len(), 2);
        for (text, reason) in [
            ("x=y", "unexpected key 'x' in 'x=y'"),
            (
                "count=1,count=2",
                "gpu request key 'count' can be specified only once",
            ),
            (
                "some",
                "invalid count (some): value must be either \"all\" or an integer",
            ),
        ] {
            let message = parse_gpus(text).unwrap_err();
            assert_eq!(
                message,
                format!("invalid argument {text:?} for \"--gpus\" flag: {reason}")
            );
        }
    }
}
