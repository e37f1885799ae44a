//! The Dockerfile frontend's options as a build request: pure translation. What is not known is refused by its name.

use crate::build::Remote;
use crate::caches;
use crate::error::{KitError, Result};
use crate::requests;
use naru_engine::oci::Platform;
use naru_engine::spec::RlimitSpec;
use naru_engine::{BuildRequest, EngineError, NamedContext};
use std::collections::HashMap;

/// Where clients say that they serve an archive of the context themselves.
const UPLOADED: &str = "http://buildkit-session";

/// What concerns clients' own records, and what Naru does anyway.
const IGNORED: &[&str] = &["cmdline", "frontend.caps", "multi-platform", "source"];
const IGNORED_PREFIXES: &[&str] = &["vcs:", "local-sessionid:", "cache-ns"];

/// Reads the options of `dockerfile.v0`.
pub fn read_options(options: &HashMap<String, String>) -> Result<(BuildRequest, Remote)> {
    let mut request = BuildRequest::default();
    let get = |key: &str| options.get(key).filter(|value| !value.is_empty());
    for (key, value) in options {
        read_option(&mut request, key, value)?;
    }
    let Some(address) = get("context") else {
        let remote = Remote::Client {
            context: get("contextkey").map_or("context", String::as_str).to_owned(),
            dockerfile: get("dockerfilekey")
                .map_or("dockerfile", String::as_str)
                .to_owned(),
        };
        return Ok((request, remote));
    };
    if let Some(path) = address.strip_prefix(UPLOADED) {
        let path = path.to_owned();
        return Ok((request, Remote::Pulled { path }));
    }
    request.remote = Some(address.clone());
    Ok((request, Remote::Fetched))
}

fn read_option(request: &mut BuildRequest, key: &str, value: &str) -> Result<()> {
    let text = || Some(value.to_owned()).filter(|text| !text.is_empty());
    if let Some(name) = key.strip_prefix("build-arg:") {
        request.arguments.insert(name.to_owned(), Some(value.to_owned()));
    } else if let Some(name) = key.strip_prefix("label:") {
        request.labels.insert(name.to_owned(), value.to_owned());
    } else if let Some(name) = key.strip_prefix("context:") {
        request.contexts.insert(name.to_owned(), read_context(value)?);
    } else if let Some(kind) = key.strip_prefix("attest:") {
        request.attest.add(kind, value)?;
    } else {
        match key {
            "filename" => value.clone_into(&mut request.dockerfile),
            "target" => request.target = text(),
            "image-resolve-mode" => request.pull = value == "pull",
            "force-network-mode" => request.network = text(),
            "cgroup-parent" => request.cgroup_parent = text(),
            "add-hosts" => request.extra_hosts = list(value).map(|pair| pair.replacen('=', ":", 1)).collect(),
            "no-cache" if value.is_empty() => request.no_cache = true,
            "no-cache" => request.no_cache_stages = list(value).map(str::to_owned).collect(),
            "platform" => request.platform = text().map(|text| read_platform(&text)).transpose()?,
            "shm-size" => {
                let bytes: Option<u64> = text().map(|text| read_number(key, &text)).transpose()?;
                request.shm_bytes = bytes.filter(|bytes| *bytes > 0);
            }
            "ulimit" => request.rlimits = list(value).map(read_rlimit).collect::<Result<_>>()?,
            "cache-imports" => caches::add_imports(request, value)?,
            "cache-from" => list(value).for_each(|name| caches::add_named(request, name)),
            // A request for something else than a build was answered before.
            "context" | "contextkey" | "dockerfilekey" | requests::KEY => {}
            key if IGNORED.contains(&key) => {}
            key if IGNORED_PREFIXES.iter().any(|prefix| key.starts_with(prefix)) => {}
            other => {
                return Err(KitError::NotSupported(
                    format!("the build option {other}"),
                    "build without it",
                ));
            }
        }
    }
    Ok(())
}

fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|word| !word.is_empty())
}

fn read_context(value: &str) -> Result<NamedContext> {
    if let Some(image) = value.strip_prefix("docker-image://") {
        return Ok(NamedContext::Image(image.to_owned()));
    }
    if let Some(name) = value.strip_prefix("local:") {
        return Ok(NamedContext::Client(name.to_owned()));
    }
    let is_remote = ["http://", "https://", "git://", "ssh://", "git@"]
        .iter()
        .any(|prefix| value.starts_with(prefix));
    if is_remote {
        return Ok(NamedContext::Remote(value.to_owned()));
    }
    Err(KitError::NotSupported(
        format!("the named context {value}"),
        "name an image, a directory or a URL",
    ))
}

fn read_platform(text: &str) -> Result<Platform> {
    if text.contains(',') {
        return Err(KitError::NotSupported(
            "building for several platforms at once".to_owned(),
            "build for one after the other",
        ));
    }
    let unknown = || EngineError::invalid(format!("\"{text}\": unknown operating system or architecture"));
    Ok(Platform::parse(text).ok_or_else(unknown)?)
}

fn read_number<T: std::str::FromStr>(key: &str, text: &str) -> Result<T> {
    let wrong = |_| EngineError::invalid(format!("invalid value for {key}: {text:?}"));
    Ok(text.parse().map_err(wrong)?)
}

/// `nofile=1024:2048`.
fn read_rlimit(text: &str) -> Result<RlimitSpec> {
    let wrong = || EngineError::invalid(format!("invalid ulimit {text:?}: name=soft:hard is meant"));
    let (name, limits) = text.split_once('=').ok_or_else(wrong)?;
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    Ok(RlimitSpec {
        name: name.to_owned(),
        soft: read_number("ulimit", soft)?,
        hard: read_number("ulimit", hard)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(options: &[(&str, &str)]) -> Result<(BuildRequest, Remote)> {
        let options = options
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        read_options(&options.collect())
    }

    #[test]
    fn options_become_a_request() {
        let (request, remote) = read(&[
            ("filename", "other"),
            ("build-arg:A", "1"),
            ("label:k", "v"),
            ("add-hosts", "a=1.2.3.4,b=::1"),
            ("ulimit", "nofile=1:2"),
            ("no-cache", ""),
            ("context:base", "docker-image://x"),
            ("attest:provenance", "mode=min,inline-only=true"),
        ])
        .unwrap();
        assert_eq!((request.dockerfile.as_str(), request.no_cache), ("other", true));
        assert_eq!(request.arguments["A"], Some("1".to_owned()));
        assert_eq!(request.extra_hosts, ["a:1.2.3.4", "b:::1"]);
        assert!(
            request
                .attest
                .provenance
                .is_some_and(|wanted| wanted.is_inline_only)
        );
        assert_eq!((request.rlimits[0].soft, request.rlimits[0].hard), (1, 2));
        assert_eq!(request.contexts["base"], NamedContext::Image("x".to_owned()));
        let client = Remote::Client {
            context: "context".to_owned(),
            dockerfile: "dockerfile".to_owned(),
        };
        assert_eq!(remote, client);
        let (request, _) = read(&[("no-cache", "one, two")]).unwrap();
        assert_eq!(
            (request.no_cache, &request.no_cache_stages[..]),
            (false, &["one".to_owned(), "two".to_owned()][..])
        );
        let (_, remote) = read(&[("context", "http://buildkit-session/abc")]).unwrap();
        assert_eq!(
            remote,
            Remote::Pulled {
                path: "/abc".to_owned()
            }
        );
        let (request, remote) = read(&[("context", "https://example.com/x.git")]).unwrap();
        assert_eq!((remote, request.remote.unwrap().len()), (Remote::Fetched, 25));
    }

    #[test]
    fn what_is_not_known_is_refused_by_name() {
        for (key, value, words) in [
            ("nosuch", "x", "nosuch"),
            ("platform", "linux/amd64,linux/arm64", "several platforms"),
            ("platform", "a/b/c/d/e", "unknown operating system"),
            ("shm-size", "much", "much"),
            ("ulimit", "nofile", "nofile"),
            ("context:x", "oci-layout://y", "oci-layout"),
            ("attest:sbom", "generator=x/scan", "x/scan"),
            ("attest:nosuch", "", "nosuch"),
        ] {
            let error = read(&[(key, value)]).unwrap_err().to_string();
            assert!(error.contains(words), "{key}={value}: {error}");
        }
    }
}
