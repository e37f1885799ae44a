//! The filters of `prune`: which of the unused things are meant.

use super::filters::Filters;
use super::time::parse_time;
use crate::error::{ApiError, ApiResult};
use naru_base::Timestamp;
use std::collections::BTreeMap;

/// `label`, `label!` and, where it is known, `until`.
#[derive(Debug, Clone)]
pub struct PruneFilters {
    pub filters: Filters,
    until: Option<Timestamp>,
}

impl PruneFilters {
    pub fn parse(text: Option<&str>, known: &[&str]) -> ApiResult<Self> {
        let filters = Filters::parse(text, known)?;
        let until = match filters.values("until") {
            [] => None,
            [text] => Some(parse_time(text)?),
            _ => return Err(ApiError::invalid("more than one until filter specified")),
        };
        Ok(Self { filters, until })
    }

    /// Something made at the very moment is old enough, as for Docker; so is what does not know when it was made.
    pub fn is_meant(&self, labels: &BTreeMap<String, String>, created: Option<Timestamp>) -> bool {
        let is_young = self
            .until
            .is_some_and(|until| created.is_some_and(|created| created > until));
        !is_young && self.filters.labels_match(labels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn age_and_labels_both_decide() {
        let known = ["label", "label!", "until"];
        let parse = |text: &str| PruneFilters::parse(Some(text), &known);
        let filters = parse(r#"{"until":["2026-01-02"],"label":["a"]}"#).unwrap();
        let labels = BTreeMap::from([("a".to_owned(), String::new())]);
        let at = |text: &str| Some(text.parse::<Timestamp>().unwrap());
        assert!(filters.is_meant(&labels, at("2026-01-01T23:00:00Z")));
        assert!(filters.is_meant(&labels, None));
        assert!(!filters.is_meant(&labels, at("2026-01-02T00:00:01Z")));
        assert!(!filters.is_meant(&BTreeMap::new(), at("2026-01-01T23:00:00Z")));
        assert!(parse(r#"{"until":["1h","2h"]}"#).is_err());
        assert!(parse(r#"{"until":["soon"]}"#).is_err());
        assert!(parse(r#"{"since":["1h"]}"#).is_err());
    }
}
