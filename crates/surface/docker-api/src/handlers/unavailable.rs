//! What Docker has and Naru does not yet: each answers clearly, and what only swarm managers know as Docker's own
//! daemon does outside a swarm.

use crate::error::{ApiError, ApiResult};
use crate::request::Call;
use crate::respond::{self, Answer};
use hyper::StatusCode;
use naru_docker_wire::Endpoint;

pub async fn answer(endpoint: Endpoint, call: &Call) -> ApiResult<Answer> {
    match endpoint {
        Endpoint::PluginList => Ok(respond::ok(&[(); 0])),
        Endpoint::ContainerCheckpointList => {
            call.engine.inspect_container(&call.name, false).await?;
            Ok(respond::ok(&[(); 0]))
        }
        Endpoint::ContainerCheckpointCreate => {
            call.engine.inspect_container(&call.name, false).await?;
            Err(ApiError::not_supported(
                "checkpointing a container",
                "its processes cannot be written to disk and brought back",
            ))
        }
        Endpoint::SwarmLeave => Err(ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "This node is not part of a swarm",
        )),
        _ if is_swarm(endpoint) => Err(ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node \
             to swarm and try again.",
        )),
        Endpoint::PluginInspect
        | Endpoint::PluginEnable
        | Endpoint::PluginDisable
        | Endpoint::PluginRemove => Err(ApiError::not_found(format!("plugin \"{}\" not found", call.name))),
        _ => Err(ApiError::new(
            StatusCode::NOT_IMPLEMENTED,
            format!("{} is not available yet", what(endpoint)),
        )),
    }
}

fn is_swarm(endpoint: Endpoint) -> bool {
    use Endpoint as E;
    matches!(
        endpoint,
        E::SwarmInspect
            | E::SwarmUpdate
            | E::SwarmUnlock
            | E::SwarmUnlockKey
            | E::NodeList
            | E::NodeAny
            | E::NodeUpdate
            | E::NodeRemove
            | E::ServiceList
            | E::ServiceAny
            | E::ServiceUpdate
            | E::ServiceRemove
            | E::TaskList
            | E::TaskAny
            | E::SecretList
            | E::SecretAny
            | E::SecretUpdate
            | E::SecretRemove
            | E::ConfigList
            | E::ConfigAny
            | E::ConfigUpdate
            | E::ConfigRemove
    )
}

/// In words for people.
fn what(endpoint: Endpoint) -> &'static str {
    use Endpoint as E;
    match endpoint {
        E::PluginPrivileges | E::PluginPull | E::PluginCreate => "installing plugins",
        E::SwarmInit | E::SwarmJoin => "swarm mode",
        _ => "this operation",
    }
}
