//! The `filters` parameter: a JSON object of lists, or the older object of sets.

use crate::error::{ApiError, ApiResult};
use serde_json::Value;
use std::collections::BTreeMap;

/// Filter name to the values asked for; any of them may match.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filters(BTreeMap<String, Vec<String>>);

impl Filters {
    /// Reads `{"label":["a=b"]}` or `{"label":{"a=b":true}}`; names outside `known` are refused, as Docker does.
    pub fn parse(text: Option<&str>, known: &[&str]) -> ApiResult<Self> {
        let Some(text) = text.filter(|text| !text.is_empty()) else {
            return Ok(Self::default());
        };
        let parsed: BTreeMap<String, Value> = serde_json::from_str(text)
            .map_err(|error| ApiError::invalid(format!("invalid filter: {error}")))?;
        let mut filters = BTreeMap::new();
        for (name, values) in parsed {
            if !known.contains(&name.as_str()) {
                return Err(ApiError::invalid(format!("invalid filter '{name}'")));
            }
            filters.insert(name.clone(), values_of(&name, values)?);
        }
        Ok(Self(filters))
    }

    pub fn values(&self, name: &str) -> &[String] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    pub fn has(&self, name: &str) -> bool {
        !self.values(name).is_empty()
    }

    /// Whether any value satisfies `test`; an absent filter lets everything through.
    pub fn any(&self, name: &str, test: impl Fn(&str) -> bool) -> bool {
        let values = self.values(name);
        values.is_empty() || values.iter().any(|value| test(value))
    }

    /// A true-or-false filter.
    pub fn boolean(&self, name: &str) -> ApiResult<Option<bool>> {
        let Some(value) = self.values(name).first() else {
            return Ok(None);
        };
        match value.as_str() {
            "1" | "true" | "True" | "t" => Ok(Some(true)),
            "0" | "false" | "False" | "f" => Ok(Some(false)),
            other => Err(ApiError::invalid(format!("invalid filter '{name}={other}'"))),
        }
    }

    /// Every `key` or `key=value` asked for is among the labels, and not all that `label!` names.
    pub fn labels_match(&self, labels: &BTreeMap<String, String>) -> bool {
        let has = |wanted: &String| match wanted.split_once('=') {
            Some((key, value)) => labels.get(key).is_some_and(|found| found == value),
            None => labels.contains_key(wanted),
        };
        let unwanted = self.values("label!");
        self.values("label").iter().all(has) && (unwanted.is_empty() || !unwanted.iter().all(has))
    }
}

fn values_of(name: &str, values: Value) -> ApiResult<Vec<String>> {
    let wrong = || ApiError::invalid(format!("invalid filter '{name}': expected a list of strings"));
    match values {
        Value::Array(list) => list
            .into_iter()
            .map(|value| match value {
                Value::String(text) => Ok(text),
                _ => Err(wrong()),
            })
            .collect(),
        Value::Object(set) => Ok(set
            .into_iter()
            .filter(|(_, on)| on == &Value::Bool(true))
            .map(|(key, _)| key)
            .collect()),
        Value::Null => Ok(Vec::new()),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read() {
        let list = Filters::parse(Some(r#"{"label":["a=b","c"]}"#), &["label"]).unwrap();
        let set = Filters::parse(Some(r#"{"label":{"a=b":true,"c":true,"d":false}}"#), &["label"]).unwrap();
        assert_eq!(list, set);
        let labels = |pairs: &[(&str, &str)]| {
            pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect()
        };
        assert!(list.labels_match(&labels(&[("a", "b"), ("c", "x")])));
        assert!(!list.labels_match(&labels(&[("a", "b")])));
    }

    #[test]
    fn what_has_all_unwanted_labels_is_left_out() {
        let filters = Filters::parse(Some(r#"{"label!":["a","b=c"]}"#), &["label!"]).unwrap();
        let labels = |pairs: &[(&str, &str)]| {
            pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect()
        };
        assert!(!filters.labels_match(&labels(&[("a", ""), ("b", "c")])));
        assert!(filters.labels_match(&labels(&[("a", ""), ("b", "d")])));
        assert!(filters.labels_match(&labels(&[])));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "[]",
            "{",
            "{\"label\":1}",
            "{\"label\":[1]}",
            "{\"nonsense\":[]}",
            "\u{0}",
        ] {
            assert!(Filters::parse(Some(text), &["label"]).is_err(), "{text}");
        }
        assert_eq!(Filters::parse(Some(""), &[]), Ok(Filters::default()));
    }
}
