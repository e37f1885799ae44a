//! The project's own rules about its source, each with what to do instead. Reads files; never changes one.

use crate::{arrows, incidents, run};
use std::path::{Path, PathBuf};

/// No source file is longer; split it by what its parts do.
const FILE_LINES_MAX: usize = 1_000;

/// Where `unsafe` may stand.
const UNSAFE_ALLOWED: &[&str] = &["crates/foundation/sys/", "crates/engine/programs/embedded/"];

/// How unsafe code looks once rustfmt has been over it; split so that this file does not find itself.
const UNSAFE_FORMS: &[&str] = &[
    concat!("un", "safe {"),
    concat!("un", "safe fn"),
    concat!("un", "safe impl"),
    concat!("un", "safe extern"),
    concat!("allow(un", "safe_code"),
];

/// A word that may not stand in code outside some paths, and what to write instead.
struct Banned {
    word: &'static str,
    allowed: &'static [&'static str],
    instead: &'static str,
}

/// Words are split here so that this file does not find itself.
const BANNED: &[Banned] = &[
    Banned {
        word: concat!("todo", "!("),
        allowed: &[],
        instead: "write it, or return a typed error",
    },
    Banned {
        word: concat!("unimplemented", "!("),
        allowed: &[],
        instead: "write it, or return a typed error",
    },
    Banned {
        word: concat!("dbg", "!("),
        allowed: &[],
        instead: "remove it, or use tracing",
    },
    Banned {
        word: concat!("FIX", "ME"),
        allowed: &[],
        instead: "mend it, or write down the limit",
    },
    Banned {
        word: concat!("unbounded_", "channel"),
        allowed: &[],
        instead: "use a bounded channel: a slow reader must not fill the memory",
    },
    Banned {
        word: concat!("Command", "::new("),
        allowed: &[
            "xtask/",
            "crates/foundation/sys/",
            "app/naru/",
            // The daemon starts the spawner, which is itself.
            "crates/engine/engine/src/keepers/spawner.rs",
            // A build that names a repository, and nothing else.
            "crates/engine/engine/src/build/git.rs",
            "crates/surface/cli/",
            "build.rs",
            "/tests/",
        ],
        instead: "the daemon spawns no helper program; ask the kernel directly",
    },
];

/// Prints every finding and fails if there is one.
pub fn check_and_report() -> Result<(), String> {
    let sources = read_sources()?;
    let mut found = check_lengths(&sources);
    found.extend(check_unsafe(&sources));
    found.extend(check_banned(&sources));
    found.extend(arrows::check()?);
    found.extend(incidents::check()?);
    report_direct_files(&sources);
    if found.is_empty() {
        Ok(())
    } else {
        Err(found.join("\n"))
    }
}

struct Source {
    path: String,
    text: String,
}

impl Source {
    /// Lines of code with their numbers, up to the file's own tests; comments are cut off.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let is_test = self.path.contains("/tests/") || self.path.ends_with("/tests.rs");
        let lines = self.text.lines().enumerate().filter(move |_| !is_test);
        lines
            .take_while(|(_, line)| !line.starts_with("#[cfg(test)]"))
            .map(|(number, line)| (number + 1, line.split("//").next().unwrap_or_default()))
    }
}

fn read_sources() -> Result<Vec<Source>, String> {
    let root = run::root();
    let mut sources = Vec::new();
    for folder in ["app", "crates", "xtask", "tests", "benches"] {
        read_folder(&root, &root.join(folder), &mut sources)?;
    }
    Ok(sources)
}

fn read_folder(root: &Path, folder: &Path, sources: &mut Vec<Source>) -> Result<(), String> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Ok(());
    };
    let mut paths: Vec<PathBuf> = entries.filter_map(Result::ok).map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let is_source = path
            .extension()
            .is_some_and(|extension| extension == "rs" || extension == "py");
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            read_folder(root, &path, sources)?;
        } else if is_source {
            let text =
                std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
            let path = path
                .strip_prefix(root)
                .unwrap_or(&path)
                .to_string_lossy()
                .into_owned();
            sources.push(Source { path, text });
        }
    }
    Ok(())
}

fn check_lengths(sources: &[Source]) -> Vec<String> {
    let long = sources.iter().map(|source| (source, source.text.lines().count()));
    long.filter(|(_, lines)| *lines > FILE_LINES_MAX)
        .map(|(source, lines)| {
            format!(
                "{}: {lines} lines; split it by what its parts do (at most {FILE_LINES_MAX})",
                source.path
            )
        })
        .collect()
}

fn check_unsafe(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for source in rust(sources).filter(|source| {
        !UNSAFE_ALLOWED
            .iter()
            .any(|allowed| source.path.starts_with(allowed))
    }) {
        for (number, line) in source.code() {
            if UNSAFE_FORMS.iter().any(|form| line.contains(form)) {
                found.push(format!(
                    "{}:{number}: unsafe code belongs in crates/foundation/sys, behind a safe function",
                    source.path
                ));
            }
        }
    }
    found
}

fn check_banned(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for source in rust(sources) {
        for (number, line) in source.code() {
            for banned in BANNED.iter().filter(|banned| line.contains(banned.word)) {
                if !banned.allowed.iter().any(|allowed| source.path.contains(allowed)) {
                    found.push(format!(
                        "{}:{number}: `{}`: {}",
                        source.path, banned.word, banned.instead
                    ));
                }
            }
        }
    }
    found
}

/// Says, without failing, where files are opened so that an error would not name its path.
fn report_direct_files(sources: &[Source]) {
    let outside =
        rust(sources).filter(|source| source.path.starts_with("crates/") && !source.path.contains("/sys/"));
    let count = outside
        .flat_map(Source::code)
        .filter(|(_, line)| line.contains(concat!("std", "::fs::")))
        .count();
    println!("note: {count} lines use std::fs directly; an error there does not name its path");
}

fn rust(sources: &[Source]) -> impl Iterator<Item = &Source> {
    sources.iter().filter(|source| {
        Path::new(&source.path)
            .extension()
            .is_some_and(|extension| extension == "rs")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, text: &str) -> Vec<Source> {
        vec![Source {
            path: path.to_owned(),
            text: text.to_owned(),
        }]
    }

    #[test]
    fn source_keeps_the_rules() {
        assert_eq!(check_and_report(), Ok(()));
    }

    #[test]
    fn unsafe_is_found_outside_its_crate_alone() {
        let text = concat!("fn f() { un", "safe { g() } } // why");
        assert_eq!(check_unsafe(&source("crates/engine/x/src/lib.rs", text)).len(), 1);
        assert!(check_unsafe(&source("crates/foundation/sys/src/lib.rs", text)).is_empty());
        assert!(check_unsafe(&source("crates/engine/x/src/lib.rs", concat!("// un", "safe\n"))).is_empty());
    }

    #[test]
    fn banned_words_are_found_outside_tests() {
        let text = concat!("fn f() { todo", "!() }\n");
        assert_eq!(check_banned(&source("app/naru/src/main.rs", text)).len(), 1);
        assert!(check_banned(&source("app/naru/src/main.rs", &format!("#[cfg(test)]\n{text}"))).is_empty());
    }

    #[test]
    fn long_files_are_found() {
        assert_eq!(
            check_lengths(&source("a.rs", &"x\n".repeat(FILE_LINES_MAX + 1))).len(),
            1
        );
        assert!(check_lengths(&source("a.rs", &"x\n".repeat(FILE_LINES_MAX))).is_empty());
    }
}
