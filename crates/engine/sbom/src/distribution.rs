//! Which distribution an image is of (<https://www.freedesktop.org/software/systemd/man/latest/os-release.html>).

/// From `/etc/os-release`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Distribution {
    /// `debian`, `alpine`, …
    pub id: String,
    /// Empty for one without releases.
    pub version: String,
}

impl Distribution {
    pub fn parse(os_release: &str) -> Option<Self> {
        let field = |name: &str| {
            os_release.lines().find_map(|line| {
                let (key, value) = line.split_once('=')?;
                (key == name).then(|| value.trim().trim_matches(['"', '\'']).to_owned())
            })
        };
        Some(Self {
            id: field("ID").filter(|id| !id.is_empty())?,
            version: field("VERSION_ID").unwrap_or_default(),
        })
    }
}
