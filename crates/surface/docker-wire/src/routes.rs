//! The one table of the Engine API: which method and path belong to which endpoint.
//!
//! Patterns have at most one name: `{}` is one segment, `{...}` as many as it takes (image names hold slashes). A
//! version prefix `/v1.NN` is optional everywhere.

use crate::query::decode;
use hyper::Method;
use std::fmt;
use std::str::FromStr;

/// `1.51`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ApiVersion {
    pub major: u16,
    pub minor: u16,
}

impl ApiVersion {
    /// Whether this is API 1.`minor` or newer.
    pub fn is_at_least(self, minor: u16) -> bool {
        self >= Self { major: 1, minor }
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl FromStr for ApiVersion {
    type Err = std::num::ParseIntError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (major, minor) = text.split_once('.').unwrap_or((text, "0"));
        Ok(Self {
            major: major.parse()?,
            minor: minor.parse()?,
        })
    }
}

macro_rules! routes {
    ($($endpoint:ident $method:ident $pattern:literal,)*) => {
        /// What can be asked of the daemon.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Endpoint { $($endpoint),* }

        /// Every endpoint with its method and pattern. Of two patterns that fit, the earlier wins.
        pub const ROUTES: &[(Endpoint, Method, &str)] = &[$((Endpoint::$endpoint, Method::$method, $pattern)),*];
    };
}

routes! {
    PingHead HEAD "/_ping",
    Ping GET "/_ping",
    Version GET "/version",
    Info GET "/info",
    Auth POST "/auth",
    Events GET "/events",
    DiskUsage GET "/system/df",

    ContainerList GET "/containers/json",
    ContainerCreate POST "/containers/create",
    ContainerPrune POST "/containers/prune",
    ContainerInspect GET "/containers/{}/json",
    ContainerTop GET "/containers/{}/top",
    ContainerLogs GET "/containers/{}/logs",
    ContainerStats GET "/containers/{}/stats",
    ContainerChanges GET "/containers/{}/changes",
    ContainerExport GET "/containers/{}/export",
    ContainerArchiveHead HEAD "/containers/{}/archive",
    ContainerArchiveGet GET "/containers/{}/archive",
    ContainerArchivePut PUT "/containers/{}/archive",
    ContainerCheckpointList GET "/containers/{}/checkpoints",
    ContainerCheckpointCreate POST "/containers/{}/checkpoints",
    ContainerAttachWebsocket GET "/containers/{}/attach/ws",
    ContainerStart POST "/containers/{}/start",
    ContainerStop POST "/containers/{}/stop",
    ContainerRestart POST "/containers/{}/restart",
    ContainerKill POST "/containers/{}/kill",
    ContainerPause POST "/containers/{}/pause",
    ContainerUnpause POST "/containers/{}/unpause",
    ContainerRename POST "/containers/{}/rename",
    ContainerUpdate POST "/containers/{}/update",
    ContainerResize POST "/containers/{}/resize",
    ContainerAttach POST "/containers/{}/attach",
    ContainerWait POST "/containers/{}/wait",
    ContainerRemove DELETE "/containers/{...}",
    ContainerCommit POST "/commit",

    ExecCreate POST "/containers/{}/exec",
    ExecStart POST "/exec/{}/start",
    ExecResize POST "/exec/{}/resize",
    ExecInspect GET "/exec/{}/json",

    ImageList GET "/images/json",
    ImageSearch GET "/images/search",
    ImageSaveMany GET "/images/get",
    ImagePull POST "/images/create",
    ImageLoad POST "/images/load",
    ImagePrune POST "/images/prune",
    ImageInspect GET "/images/{...}/json",
    ImageHistory GET "/images/{...}/history",
    ImageSave GET "/images/{...}/get",
    ImagePush POST "/images/{...}/push",
    ImageTag POST "/images/{...}/tag",
    ImageRemove DELETE "/images/{...}",
    Distribution GET "/distribution/{...}/json",
    Build POST "/build",
    BuildPrune POST "/build/prune",
    BuildCancel POST "/build/cancel",
    Session POST "/session",
    Grpc POST "/grpc",

    VolumeList GET "/volumes",
    VolumeCreate POST "/volumes/create",
    VolumePrune POST "/volumes/prune",
    VolumeInspect GET "/volumes/{}",
    VolumeUpdate PUT "/volumes/{}",
    VolumeRemove DELETE "/volumes/{}",
    // Naru's own, beside Docker's.
    VolumeRename POST "/volumes/{}/rename",
    VolumeClone POST "/volumes/{}/clone",
    VolumeExport GET "/volumes/{}/export",
    VolumeImport PUT "/volumes/{}/import",
    VolumeRestore POST "/volumes/{}/undo",
    VolumeTrash GET "/naru/volumes/trash",
    VolumeTrashEmpty DELETE "/naru/volumes/trash",
    ContainerWhy GET "/naru/containers/{}/why",
    ImageAttestations GET "/naru/images/{...}/attestations",
    BuildKept POST "/naru/build",
    BuildAgents POST "/naru/build/agents",

    NetworkList GET "/networks",
    NetworkCreate POST "/networks/create",
    NetworkPrune POST "/networks/prune",
    NetworkInspect GET "/networks/{}",
    NetworkConnect POST "/networks/{}/connect",
    NetworkDisconnect POST "/networks/{}/disconnect",
    NetworkRemove DELETE "/networks/{}",

    PluginList GET "/plugins",
    PluginPrivileges GET "/plugins/privileges",
    PluginPull POST "/plugins/pull",
    PluginCreate POST "/plugins/create",
    PluginInspect GET "/plugins/{...}/json",
    PluginEnable POST "/plugins/{...}/enable",
    PluginDisable POST "/plugins/{...}/disable",
    PluginRemove DELETE "/plugins/{...}",

    SwarmInit POST "/swarm/init",
    SwarmJoin POST "/swarm/join",
    SwarmLeave POST "/swarm/leave",
    SwarmInspect GET "/swarm",
    SwarmUpdate POST "/swarm/update",
    SwarmUnlockKey GET "/swarm/unlockkey",
    SwarmUnlock POST "/swarm/unlock",
    NodeList GET "/nodes",
    NodeAny GET "/nodes/{...}",
    NodeUpdate POST "/nodes/{...}",
    NodeRemove DELETE "/nodes/{...}",
    ServiceList GET "/services",
    ServiceAny GET "/services/{...}",
    ServiceUpdate POST "/services/{...}",
    ServiceRemove DELETE "/services/{...}",
    TaskList GET "/tasks",
    TaskAny GET "/tasks/{...}",
    SecretList GET "/secrets",
    SecretAny GET "/secrets/{...}",
    SecretUpdate POST "/secrets/{...}",
    SecretRemove DELETE "/secrets/{...}",
    ConfigList GET "/configs",
    ConfigAny GET "/configs/{...}",
    ConfigUpdate POST "/configs/{...}",
    ConfigRemove DELETE "/configs/{...}",
}

/// A request's path, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matched {
    pub endpoint: Endpoint,
    /// What stands for the braces, decoded; empty for a pattern without.
    pub name: String,
    /// The prefix, when there is one.
    pub version: Option<ApiVersion>,
}

/// Finds the endpoint for a request line. A path that exists for other methods only is unknown, as with Docker.
pub fn find(method: &Method, path: &str) -> Option<Matched> {
    let (version, path) = split_version(path);
    let path = if path.len() > 1 {
        path.strip_suffix('/').unwrap_or(path)
    } else {
        path
    };
    let routes = ROUTES.iter().filter(|(_, wanted, _)| wanted == method);
    routes
        .filter_map(|(endpoint, _, pattern)| Some((*endpoint, match_pattern(pattern, path)?)))
        .map(|(endpoint, name)| Matched {
            endpoint,
            name: decode(name, false),
            version,
        })
        .next()
}

fn split_version(path: &str) -> (Option<ApiVersion>, &str) {
    let parsed = path.strip_prefix("/v").and_then(|rest| {
        let end = rest.find('/')?;
        let text = &rest[..end];
        let is_version = text.contains('.') && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        is_version
            .then(|| text.parse().ok())
            .flatten()
            .map(|version| (Some(version), &rest[end..]))
    });
    parsed.unwrap_or((None, path))
}

/// The text in place of the braces, empty when the pattern has none; `None` when the path does not fit.
fn match_pattern<'p>(pattern: &str, path: &'p str) -> Option<&'p str> {
    let Some(open) = pattern.find('{') else {
        return (pattern == path).then_some("");
    };
    let (before, rest) = pattern.split_at(open);
    let is_greedy = rest.starts_with("{...}");
    let after = &rest[if is_greedy { 5 } else { 2 }..];
    let name = path.strip_prefix(before)?.strip_suffix(after)?;
    let fits = !name.is_empty() && (is_greedy || !name.contains('/'));
    fits.then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(path: &str) -> Option<(Endpoint, String)> {
        find(&Method::GET, path).map(|matched| (matched.endpoint, matched.name))
    }

    #[test]
    fn every_route_finds_itself() {
        for (endpoint, method, pattern) in ROUTES {
            let path = pattern.replace("{...}", "some-name").replace("{}", "some-name");
            let matched = find(method, &format!("/v1.41{path}")).unwrap();
            assert_eq!(matched.endpoint, *endpoint, "{path}");
            assert_eq!(matched.version, Some(ApiVersion { major: 1, minor: 41 }));
            assert!(matched.name == "some-name" || matched.name.is_empty());
        }
    }

    #[test]
    fn image_names_hold_slashes_and_digests() {
        let name = "registry.example:5000/a/b@sha256:0123";
        assert_eq!(
            get(&format!("/images/{name}/json")),
            Some((Endpoint::ImageInspect, name.to_owned()))
        );
        assert_eq!(
            get("/v1.24/images/a%2Fb/history"),
            Some((Endpoint::ImageHistory, "a/b".to_owned()))
        );
        assert_eq!(
            get("/images/json/json"),
            Some((Endpoint::ImageInspect, "json".to_owned()))
        );
        assert_eq!(get("/images/json"), Some((Endpoint::ImageList, String::new())));
    }

    #[test]
    fn wrong_paths_and_methods_find_nothing() {
        assert_eq!(get("/containers/a/b/json"), None);
        assert_eq!(get("/"), None);
        assert_eq!(get(""), None);
        assert_eq!(get("/v1.41"), None);
        assert_eq!(get("/containers//json"), None);
        assert_eq!(get("/containers/create"), None);
        assert_eq!(find(&Method::PATCH, "/info"), None);
    }

    #[test]
    fn a_version_must_look_like_one() {
        assert_eq!(
            find(&Method::GET, "/v1.41/info").unwrap().version,
            "1.41".parse().ok()
        );
        assert_eq!(find(&Method::GET, "/v99999999.1/info"), None);
        assert_eq!(get("/volumes"), Some((Endpoint::VolumeList, String::new())));
    }
}
