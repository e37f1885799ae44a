//! What each rule is about, in a sentence, and where Docker's own page on it is.

use std::fmt::Write;

const DESCRIPTIONS: &[(&str, &str)] = &[
    (
        "ConsistentInstructionCasing",
        "All instructions of a file should be written in the same case",
    ),
    (
        "CopyIgnoredFile",
        "What .dockerignore leaves out cannot be copied",
    ),
    ("DuplicateStageName", "Each stage should have a name of its own"),
    (
        "ExposeInvalidFormat",
        "EXPOSE takes ports of the container, without addresses and ports of the host",
    ),
    ("ExposeProtoCasing", "Protocols in EXPOSE should be in lower case"),
    ("FromAsCasing", "AS should be written in the same case as FROM"),
    (
        "FromPlatformFlagConstDisallowed",
        "A platform that FROM fixes makes an image for that one alone",
    ),
    (
        "InvalidDefaultArgInFrom",
        "Without build arguments FROM should still name an image",
    ),
    (
        "InvalidDefinitionDescription",
        "A comment right above an argument or a stage should describe it, beginning with its name",
    ),
    (
        "JSONArgsRecommended",
        "A program that a shell starts gets no signals: CMD and ENTRYPOINT should be JSON lists",
    ),
    (
        "LegacyKeyValueFormat",
        "Names and values should have a sign between them, not a space",
    ),
    (
        "MaintainerDeprecated",
        "MAINTAINER is deprecated: a label names the author",
    ),
    (
        "MultipleInstructionsDisallowed",
        "Of several CMD, ENTRYPOINT or HEALTHCHECK in a stage only the last counts",
    ),
    (
        "NoEmptyContinuation",
        "An empty line should not stand inside an instruction",
    ),
    (
        "RedundantTargetPlatform",
        "The target's platform is what a stage has without being told",
    ),
    (
        "ReservedStageName",
        "Words with a meaning of their own should not name stages",
    ),
    (
        "SecretsUsedInArgOrEnv",
        "Secrets in ARG and ENV stay readable in the image or its history",
    ),
    ("StageNameCasing", "Names of stages should be in lower case"),
    (
        "UndefinedArgInFrom",
        "Arguments of FROM should be declared before the first stage",
    ),
    ("UndefinedVar", "Variables should be set before they are used"),
    (
        "WorkdirRelativePath",
        "A relative working directory depends on what the base image says",
    ),
];

/// The rule in a sentence; nothing for a name that is no rule's.
pub fn description_of(rule: &str) -> &'static str {
    let found = DESCRIPTIONS.iter().find(|(name, _)| *name == rule);
    found.map_or("", |(_, description)| description)
}

/// Docker's page on a rule, whose address is made of the rule's name: `from-as-casing`.
pub fn page_of(rule: &str) -> String {
    let letters: Vec<char> = rule.chars().collect();
    let mut page = "https://docs.docker.com/go/dockerfile/rule/".to_owned();
    for (index, letter) in letters.iter().enumerate() {
        // A word begins with a capital after a small letter, or before one: JSON|Args.
        let follows = |at: usize| letters.get(at).is_some_and(char::is_ascii_lowercase);
        if index > 0 && letter.is_ascii_uppercase() && (follows(index - 1) || follows(index + 1)) {
            page.push('-');
        }
        let _ = write!(page, "{}", letter.to_ascii_lowercase());
    }
    page + "/"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_has_its_page() {
        for (rule, page) in [
            ("FromAsCasing", "from-as-casing"),
            ("JSONArgsRecommended", "json-args-recommended"),
            ("SecretsUsedInArgOrEnv", "secrets-used-in-arg-or-env"),
        ] {
            let whole = format!("https://docs.docker.com/go/dockerfile/rule/{page}/");
            assert_eq!(page_of(rule), whole);
            assert!(description_of(rule).len() > 20);
        }
        assert_eq!(description_of("Nosuch"), "");
    }
}
