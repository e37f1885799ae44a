//! What is allowed in a Dockerfile and yet seldom meant: Docker's build checks, by Docker's names for them.
//!
//! ```text
//!  Dockerfile, facts ─▶ words (how things are written) ─▶ stages (bases, names) ─▶ variables, sources ─▶ findings
//! ```
//! A finding is only told; `# check=error=true` makes a build of it fail. Nothing is built, fetched or asked for here:
//! of base images only what the caller knows counts.

mod bases;
pub(crate) mod comments;
mod directive;
mod rules;
mod variables;
mod writing;

pub use directive::Directive;
pub use rules::{description_of, page_of};
pub use writing::is_secret;

use crate::dockerfile::{Dockerfile, Stage};
use crate::error::{Place, Result};
use crate::excerpt;
use crate::ignore::Ignore;
use std::collections::BTreeSet;

/// Something that is probably not meant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    pub place: Place,
    /// Docker's name of the rule.
    pub rule: &'static str,
    pub message: String,
}

/// Finds the environment of an image by its name.
pub type EnvironmentOf<'a> = dyn Fn(&str) -> Option<Vec<String>> + 'a;

/// What a caller knows besides the file.
#[derive(Default)]
pub struct Facts<'a> {
    /// The environment of a base image; `None` where it is not known.
    pub environment: Option<&'a EnvironmentOf<'a>>,
    /// What the context leaves out, where that is known.
    pub ignore: Option<&'a Ignore>,
    /// Names of further contexts.
    pub contexts: BTreeSet<String>,
    /// Takes the place of the file's own `# check=`.
    pub directive: Option<&'a str>,
}

/// The findings, in the order of the file, and what is to be done about them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    pub findings: Vec<Finding>,
    /// With any finding the build fails.
    pub is_error: bool,
}

/// Checks a file. Its `# check=` directive can be wrong, and is then refused.
pub fn check(file: &Dockerfile, facts: &Facts) -> Result<Report> {
    let directive = Directive::read(file, facts.directive)?;
    let mut findings = Findings::default();
    writing::check(file, &mut findings);
    comments::check(file, &mut findings);
    bases::check(file, facts, &mut findings);
    variables::check(file, facts, &mut findings);
    let mut findings = findings.0;
    findings.retain(|finding| directive.wants(finding.rule));
    findings.sort();
    findings.dedup();
    Ok(Report {
        is_error: directive.is_error && !findings.is_empty(),
        findings,
    })
}

/// All findings with their lines, and how many there are.
pub fn shown(findings: &[Finding], file: &str, text: &str) -> String {
    let mut shown = String::new();
    let lines = excerpt::Lines::of(text);
    for finding in findings {
        let message = format!("warning: {}: {}", finding.rule, finding.message);
        shown.push_str(&excerpt::locate_word(
            &message,
            &finding.message,
            file,
            &lines,
            finding.place,
        ));
        shown.push_str("\n\n");
    }
    let count = match findings.len() {
        0 => "no warnings".to_owned(),
        1 => "1 warning".to_owned(),
        count => format!("{count} warnings"),
    };
    shown + &format!("Check complete: {count} found.")
}

/// Findings being gathered.
#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, rule: &'static str, place: Place, message: impl Into<String>) {
        self.0.push(Finding {
            place,
            rule,
            message: message.into(),
        });
    }
}

/// The words of a `FROM` line as written, without its flags: base, `AS`, name.
fn words_of(stage: &Stage) -> Vec<&str> {
    let words = stage.text.split_whitespace();
    words.filter(|word| !word.starts_with("--")).collect()
}

fn meant(near: Option<&str>, sign: &str) -> String {
    near.map_or_else(String::new, |near| format!(" (did you mean {sign}{near}?)"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dockerfile::parse;

    fn found_with(text: &str, facts: &Facts) -> Vec<String> {
        let file = parse(text.as_bytes()).unwrap_or_else(|error| panic!("{text}: {error}"));
        let report = check(&file, facts).unwrap();
        let findings = report.findings.iter();
        findings
            .map(|one| format!("{}:{}", one.place.line, one.rule))
            .collect()
    }

    /// Of a base whose environment is known.
    fn found(text: &str) -> Vec<String> {
        let base = |name: &str| {
            let environment = ["PATH=/bin", "KNOWN=1"].map(str::to_owned);
            (name != "unknown").then(|| environment.to_vec())
        };
        let facts = Facts {
            environment: Some(&base),
            ..Facts::default()
        };
        found_with(text, &facts)
    }

    #[test]
    fn each_rule_finds_its_own_and_nothing_else() {
        for (text, expected) in [
            ("FROM a AS Made\n", "1:StageNameCasing"),
            ("FROM a as made\n", "1:FromAsCasing"),
            ("from a AS made\n", "1:FromAsCasing"),
            ("from a as made\n", ""),
            ("FROM a\nRUN x \\\n\n  y\n", "3:NoEmptyContinuation"),
            ("FROM a\nRUN x \\\n# why\n  y\n", ""),
            ("FROM a\nRUN <<E\n\nx\n\nE\n", ""),
            ("FROM a\nRUN x\nrun y\n", "3:ConsistentInstructionCasing"),
            ("from a\nrun x\nRUN y\n", "3:ConsistentInstructionCasing"),
            ("FROM a\nRun x\n", "2:ConsistentInstructionCasing"),
            ("FROM a AS scratch\n", "1:ReservedStageName"),
            ("FROM a AS context\n", "1:ReservedStageName"),
            (
                "FROM a AS one\nFROM b AS One\n",
                "2:DuplicateStageName 2:StageNameCasing",
            ),
            ("FROM a\nCMD x\n", "2:JSONArgsRecommended"),
            ("FROM a\nENTRYPOINT x\n", "2:JSONArgsRecommended"),
            ("FROM a\nSHELL [\"/bin/bash\", \"-c\"]\nCMD x\n", ""),
            ("FROM a\nCMD [\"x\"]\n", ""),
            ("FROM a\nMAINTAINER me\n", "2:MaintainerDeprecated"),
            ("FROM a:$V\n", "1:UndefinedArgInFrom"),
            ("ARG V=1\nFROM a:$V\n", ""),
            ("FROM --platform=$BUILDPLATFORM a\n", ""),
            ("FROM --platform=$TARGETPLATFORM a\n", "1:RedundantTargetPlatform"),
            (
                "FROM --platform=linux/amd64 a\n",
                "1:FromPlatformFlagConstDisallowed",
            ),
            ("FROM --platform=linux/amd64 a AS build-amd64\n", ""),
            ("ARG V\nFROM a:$V\n", "2:InvalidDefaultArgInFrom"),
            ("ARG V\nFROM $V\n", "2:InvalidDefaultArgInFrom"),
            ("ARG V\nFROM a:${V:-1}\n", ""),
            ("FROM a\nWORKDIR x\n", "2:WorkdirRelativePath"),
            ("FROM a\nWORKDIR /x\nWORKDIR y\n", ""),
            ("FROM a AS one\nWORKDIR /x\nFROM one\nWORKDIR y\n", ""),
            ("FROM a\nCOPY $SRC /x\n", "2:UndefinedVar"),
            ("FROM a\nARG SRC\nCOPY $SRC $KNOWN/x\n", ""),
            ("FROM a\nCOPY ${SRC:-x} ${SRC+y} /x\n", ""),
            ("FROM a\nENV A=1 B=$A\n", "2:UndefinedVar"),
            ("FROM a\nENV A='$B' C=\\$D\n", ""),
            ("FROM a AS one\nENV A=1\nFROM one\nENV B=$A\n", ""),
            ("ARG A=1\nFROM a\nENV B=$A\n", "3:UndefinedVar"),
            ("FROM unknown\nENV B=$OTHER\n", ""),
            ("FROM unknown\nARG VERSION\nENV B=$VERSOIN\n", "3:UndefinedVar"),
            ("FROM scratch\nENV P=$PATH:/x Q=$KNOWN\n", "2:UndefinedVar"),
            (
                "FROM a\nCMD [\"x\"]\nCMD [\"y\"]\n",
                "2:MultipleInstructionsDisallowed",
            ),
            (
                "FROM a\nHEALTHCHECK NONE\nHEALTHCHECK CMD x\n",
                "2:MultipleInstructionsDisallowed",
            ),
            ("FROM a AS one\nCMD [\"x\"]\nFROM one\nCMD [\"y\"]\n", ""),
            ("FROM a\nENV A 1\n", "2:LegacyKeyValueFormat"),
            ("FROM a\nLABEL A 1\n", "2:LegacyKeyValueFormat"),
            ("FROM a\nARG DB_PASSWORD\n", "2:SecretsUsedInArgOrEnv"),
            ("FROM a\nENV API_TOKEN=x\n", "2:SecretsUsedInArgOrEnv"),
            ("FROM a\nENV PUBLIC_KEY=x TOKENIZER=y KEYBOARD=z\n", ""),
            ("FROM a\nEXPOSE 80/TCP\n", "2:ExposeProtoCasing"),
            ("FROM a\nEXPOSE 127.0.0.1:80:80\n", "2:ExposeInvalidFormat"),
            ("FROM a\nEXPOSE 80:8080/tcp\n", "2:ExposeInvalidFormat"),
            ("FROM a\nEXPOSE 80 90-91/udp\n", ""),
        ] {
            assert_eq!(found(text).join(" "), expected, "{text}");
            for word in expected
                .split_whitespace()
                .filter_map(|word| word.split_once(':'))
            {
                assert!(
                    !description_of(word.1).is_empty(),
                    "{} has no description",
                    word.1
                );
            }
        }
    }

    #[test]
    fn what_the_context_leaves_out_is_not_copied() {
        let ignore = Ignore::parse("secret\n*.md\n!keep.md\nd/deep\n").unwrap();
        let facts = Facts {
            ignore: Some(&ignore),
            ..Facts::default()
        };
        for (source, is_found) in [
            ("secret", true),
            ("./secret", true),
            ("a.md", true),
            ("keep.md", false),
            ("d", false),
            ("d/deep/x", true),
            (".", false),
            ("*.md", false),
        ] {
            let text = format!("FROM a\nCOPY {source} /x\nADD {source} /y\nCOPY --from=b {source} /z\n");
            let expected: &[&str] = if is_found {
                &["2:CopyIgnoredFile", "3:CopyIgnoredFile"]
            } else {
                &[]
            };
            assert_eq!(found_with(&text, &facts), expected, "{source}");
        }
    }

    #[test]
    fn the_directive_chooses() {
        let text = "FROM a as made\nMAINTAINER me\n";
        for (directive, expected) in [
            ("", "1:FromAsCasing 2:MaintainerDeprecated"),
            ("# check=skip=FromAsCasing\n", "3:MaintainerDeprecated"),
            ("# check=skip=FromAsCasing, MaintainerDeprecated;error=true\n", ""),
            ("# check=skip=all\n", ""),
        ] {
            assert_eq!(
                found(&format!("{directive}{text}")).join(" "),
                expected,
                "{directive}"
            );
        }
        let report = |directive: &str, text: &str| {
            let file = parse(format!("# check={directive}\n{text}").as_bytes()).unwrap();
            check(&file, &Facts::default())
        };
        assert!(report("error=true", text).unwrap().is_error);
        assert!(!report("error=true", "FROM a\n").unwrap().is_error);
        assert!(!report("error=false", text).unwrap().is_error);
        assert!(
            report("eror=true", text)
                .unwrap_err()
                .message
                .contains("did you mean error")
        );
        assert!(report("error=maybe", text).is_err());
        let file = parse(b"# check=skip=all\nFROM a as made\n").unwrap();
        let facts = Facts {
            directive: Some("error=true"),
            ..Facts::default()
        };
        assert!(check(&file, &facts).unwrap().is_error);
    }

    #[test]
    fn descriptions_are_checked_on_request() {
        let text = "# check=experimental=all\n# something else\nFROM a AS made\n# V the version\nARG V\n\n# free\n\nARG W\n";
        assert_eq!(found(text), ["3:InvalidDefinitionDescription"]);
        assert_eq!(found(&text.replace("experimental=all", "error=false")), [""; 0]);
    }

    #[test]
    fn the_nearest_word_is_named() {
        let base = |_: &str| Some(Vec::new());
        let facts = Facts {
            environment: Some(&base),
            ..Facts::default()
        };
        for (text, near) in [
            ("ARG VERSION=1\nFROM a:$VERSIN\n", "$VERSION"),
            ("FROM a\nARG SOURCE\nCOPY $SOURC /\n", "$SOURCE"),
        ] {
            let report = check(&parse(text.as_bytes()).unwrap(), &facts).unwrap();
            let messages: Vec<&String> = report.findings.iter().map(|one| &one.message).collect();
            assert!(
                messages[0].contains(&format!("did you mean {near}?")),
                "{messages:?}"
            );
        }
    }
}
