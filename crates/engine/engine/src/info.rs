//! What the engine says of itself.

use crate::Engine;
use crate::record::ContainerState;
use crate::views::EngineInfo;

impl Engine {
    pub async fn info(&self) -> EngineInfo {
        let (mut running, mut paused, mut stopped) = (0, 0, 0);
        for container in self.registry.all() {
            match container.record().state {
                ContainerState::Running { .. } => running += 1,
                ContainerState::Paused { .. } => paused += 1,
                _ => stopped += 1,
            }
        }
        EngineInfo {
            id: self.id.clone(),
            data_root: self.options.data_root.clone(),
            exec_root: self.options.exec_root.clone(),
            containers_running: running,
            containers_paused: paused,
            containers_stopped: stopped,
            images: self.content.images().len(),
            cgroup_version: self.cgroup_version(),
            parked: self.pool.len(),
            spawner_pid: self.workshop.spawner.pid(),
            bridge: Some(self.network.bridge().to_owned()),
            live_restore: self.options.live_restore,
            logging_driver: self.options.containers.log.driver.clone(),
            proxies: self.options.registry.proxies.without_passwords(),
            is_remapped: self.options.remap.is_some(),
            insecure_registries: self.options.registry.insecure.clone(),
            registry_mirrors: self.options.registry.mirrors.clone(),
        }
    }

    /// 1 or 2.
    pub fn cgroup_version(&self) -> u8 {
        match naru_cgroup::hierarchy().map(naru_cgroup::Hierarchy::version) {
            Ok(naru_cgroup::Version::V2) => 2,
            _ => 1,
        }
    }

    /// The id of one of the three networks every engine has.
    pub fn network_id(&self, name: &str) -> String {
        network_id(&self.id, name)
    }

    /// When this data root was first used.
    pub(crate) fn content_opened_at(&self) -> naru_base::Timestamp {
        let metadata = std::fs::metadata(self.options.data_root.join("engine-id"));
        metadata
            .and_then(|metadata| metadata.modified())
            .map_or_else(|_| naru_base::Timestamp::now(), Into::into)
    }
}

/// Stable 64 digits for a built-in network: the engine's id with the name's letters mixed in.
fn network_id(engine: &str, name: &str) -> String {
    let mut state = name.bytes().fold(7_u32, |state, byte| {
        state.wrapping_mul(31).wrapping_add(u32::from(byte))
    });
    engine
        .chars()
        .map(|digit| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let mixed = digit.to_digit(16).unwrap_or_default() ^ (state >> 28);
            char::from_digit(mixed, 16).unwrap_or('0')
        })
        .collect()
}
