//! Repositories of git, fetched by the host's `git`: a client of its own would be as large as the rest of the engine.
//!
//! It is told to believe nothing: no configuration, no prompts, no hooks, no protocol but those that are asked for here.
//! What it fetched is looked at with its directory as the root of every path (CVE-2026-33748).

use super::redact::{redact_address, redact_text};
use crate::error::{EngineError, Result};
use naru_base::ErrorKind;
use std::path::Path;
use std::process::Stdio;

/// Ways to a repository. Files of the host are none.
const GIT_PROTOCOLS: &[&str] = &["http", "https", "git", "ssh"];

/// A commit's digest and the end of its line.
const HEAD_BYTES_MAX: u64 = 128;

/// A repository, and what of it is wanted: `URL#REF:DIRECTORY`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct GitAddress {
    pub repository: String,
    /// A branch, tag or commit; empty for what the repository calls `HEAD`.
    pub reference: String,
    pub directory: String,
}

impl GitAddress {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (repository, rest) = text.split_once('#').unwrap_or((text, ""));
        let path = repository.split('?').next().unwrap_or(repository);
        let is_git = match repository.split_once("://") {
            Some(("http" | "https", _)) => path.strip_suffix(".git").is_some(),
            Some((scheme, _)) => scheme == "git" || scheme == "ssh",
            // `user@host:path`
            None => repository
                .split_once('@')
                .is_some_and(|(user, rest)| !user.contains('/') && rest.contains(':')),
        };
        let (reference, directory) = rest.split_once(':').unwrap_or((rest, ""));
        is_git.then(|| Self {
            repository: repository.to_owned(),
            reference: reference.to_owned(),
            directory: directory.to_owned(),
        })
    }

    /// What git could take for something else than a name.
    fn check(&self) -> Result<()> {
        for (what, text) in [("repository", &self.repository), ("reference", &self.reference)] {
            if text.starts_with('-') || text.contains(|letter: char| letter.is_control() || letter == ' ') {
                let told = redact_address(text);
                return Err(EngineError::invalid(format!("{told:?} is no {what}")));
            }
        }
        if self.directory.split('/').any(|part| part == "..") {
            return Err(EngineError::invalid(format!(
                "the directory {:?} leads out of its repository",
                self.directory
            )));
        }
        Ok(())
    }
}

/// Fetches a repository into an empty directory.
pub(super) async fn fetch_repository(git: &GitAddress, directory: &Path) -> Result<()> {
    git.check()?;
    run_git(directory, &["init", "-q", "."]).await?;
    let wanted = if git.reference.is_empty() {
        "HEAD"
    } else {
        &git.reference
    };
    // Not every server gives a single commit, and those that only serve files know nothing of depths.
    let shallow = [
        "fetch",
        "-q",
        "--no-tags",
        "--depth=1",
        "--",
        &git.repository,
        wanted,
    ];
    if run_git(directory, &shallow).await.is_ok() {
        run_git(directory, &["checkout", "-q", "--detach", "FETCH_HEAD"]).await?;
    } else {
        let all = [
            "fetch",
            "-q",
            "--",
            &git.repository,
            "+refs/heads/*:refs/remotes/origin/*",
            "+refs/tags/*:refs/tags/*",
            "+HEAD:refs/remotes/origin/HEAD",
        ];
        run_git(directory, &all).await?;
        let candidates = [
            format!("refs/remotes/origin/{wanted}"),
            format!("refs/tags/{wanted}"),
            wanted.to_owned(),
        ];
        let mut outcome = Ok(());
        for candidate in candidates {
            outcome = run_git(directory, &["checkout", "-q", "--detach", &candidate, "--"]).await;
            if outcome.is_ok() {
                break;
            }
        }
        outcome?;
    }
    if directory.join(".gitmodules").exists() {
        run_git(
            directory,
            &["submodule", "-q", "update", "--init", "--recursive", "--depth=1"],
        )
        .await?;
    }
    Ok(())
}

/// The commit that a repository was fetched at.
pub(super) fn head_commit(directory: &Path) -> Option<String> {
    let head = naru_sys::file::read_bounded(&directory.join(".git/HEAD"), HEAD_BYTES_MAX).ok()?;
    let commit = String::from_utf8(head).ok()?.trim().to_owned();
    let is_commit = commit.len() >= 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_commit.then_some(commit)
}

async fn run_git(directory: &Path, arguments: &[&str]) -> Result<()> {
    let mut command = tokio::process::Command::new("git");
    for setting in [
        "core.hooksPath=/dev/null",
        "core.fsmonitor=false",
        "protocol.allow=never",
        "advice.detachedHead=false",
    ] {
        command.args(["-c", setting]);
    }
    for protocol in GIT_PROTOCOLS {
        command.args(["-c", &format!("protocol.{protocol}.allow=always")]);
    }
    command
        .args(arguments)
        .current_dir(directory)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_ASKPASS", "/bin/false")
        .env("GIT_SSH_COMMAND", "ssh -o BatchMode=yes")
        .env("HOME", "/nonexistent")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = command.output().await.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => EngineError::new(
            ErrorKind::NotImplemented,
            "fetching a repository needs the program git on the engine's host, and it is not there: install it, or \
             fetch the repository yourself",
        ),
        _ => EngineError::system(format!("cannot run git: {error}")),
    })?;
    if output.status.success() {
        return Ok(());
    }
    let said = redact_text(String::from_utf8_lossy(&output.stderr).trim());
    Err(EngineError::invalid(format!("git {}: {said}", arguments[0])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_are_told_from_files() {
        let address = GitAddress::parse("https://host/a/b.git#main:sub/dir").unwrap();
        assert_eq!(
            (
                address.repository.as_str(),
                address.reference.as_str(),
                address.directory.as_str()
            ),
            ("https://host/a/b.git", "main", "sub/dir")
        );
        for text in [
            "git://host/x",
            "ssh://git@host/x",
            "git@host:a/b.git",
            "http://h/x.git",
        ] {
            assert!(GitAddress::parse(text).is_some(), "{text}");
        }
        for text in [
            "https://host/a.tar.gz",
            "a.git",
            "dir/a@b",
            "file:///x.git",
            "http://h/x.git/file",
        ] {
            assert!(GitAddress::parse(text).is_none(), "{text}");
        }
        for text in [
            "http://h/x.git#--upload-pack=x",
            "http://h/x.git#main:../..",
            "git@-oProxyCommand=x:y z",
        ] {
            assert!(GitAddress::parse(text).unwrap().check().is_err(), "{text}");
        }
    }
}
