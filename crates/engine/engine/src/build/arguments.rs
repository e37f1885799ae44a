//! What a request asks of the builder itself: among its arguments by BuildKit's names for them, which no Dockerfile declares.

use super::BuildRequest;

/// Which cache mounts a build shares: those of builds that say the same.
const CACHE_SPACE: &str = "BUILDKIT_CACHE_MOUNT_NS";
/// The image carries the cache of the steps that it stands on.
const INLINE: &str = "BUILDKIT_INLINE_CACHE";
/// A repository that is a context keeps its `.git`.
const KEEP_GIT: &str = "BUILDKIT_CONTEXT_KEEP_GIT_DIR";
/// What the steps' host is called.
const HOSTNAME: &str = "BUILDKIT_SANDBOX_HOSTNAME";

/// Those that were consumed when a build has read them.
pub(super) const OF_THE_BUILDER: [&str; 5] = ["SOURCE_DATE_EPOCH", CACHE_SPACE, INLINE, KEEP_GIT, HOSTNAME];

impl BuildRequest {
    pub(super) fn cache_space(&self) -> &str {
        self.told(CACHE_SPACE).unwrap_or_default()
    }

    pub(super) fn keeps_git(&self) -> bool {
        self.is_told(KEEP_GIT)
    }

    /// Whether the image is to carry its cache, in whatever words that was said.
    pub(super) fn is_cache_carried(&self) -> bool {
        self.carries_cache || self.is_told(INLINE)
    }

    pub(super) fn hostname(&self) -> Option<&str> {
        self.told(HOSTNAME).filter(|name| !name.is_empty())
    }

    /// What Go takes for true.
    fn is_told(&self, name: &str) -> bool {
        matches!(self.told(name), Some("true" | "1" | "t" | "T" | "TRUE" | "True"))
    }

    /// Whether a stage's steps are made anew; only one that has a name can be asked for.
    pub(super) fn ignores_cache(&self, stage: Option<&str>) -> bool {
        let is_stage = |name: &String| stage.is_some_and(|stage| name.eq_ignore_ascii_case(stage));
        self.no_cache || self.no_cache_stages.iter().any(is_stage)
    }

    fn told(&self, name: &str) -> Option<&str> {
        self.arguments.get(name)?.as_deref()
    }
}
