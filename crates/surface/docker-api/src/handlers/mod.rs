//! One function an endpoint: decode, translate, one call into the engine, encode.

mod archive;
mod build;
mod build_cache;
mod build_kept;
mod buildkit;
mod commit;
mod containers;
mod disk;
mod events;
mod exec;
mod images;
mod networks;
mod registry;
mod save;
mod streams;
mod system;
mod unavailable;
mod volumes;

pub use images::human_size;

use crate::error::ApiResult;
use crate::request::Call;
use crate::respond::Answer;
use naru_docker_wire::Endpoint;

pub async fn dispatch(endpoint: Endpoint, call: Call) -> ApiResult<Answer> {
    match endpoint {
        Endpoint::Ping | Endpoint::PingHead => Ok(system::ping(endpoint)),
        Endpoint::Version => Ok(system::version()),
        Endpoint::Info => Ok(system::info(call).await),
        Endpoint::DiskUsage => disk::usage(call).await,
        Endpoint::Events => events::events(call),

        Endpoint::ContainerList => containers::list(call).await,
        Endpoint::ContainerCreate => containers::create(call).await,
        Endpoint::ContainerPrune => containers::prune(call).await,
        Endpoint::ContainerInspect => containers::inspect(call).await,
        Endpoint::ContainerTop => containers::top(call).await,
        Endpoint::ContainerStats => streams::stats(call).await,
        Endpoint::ContainerUpdate => containers::update(call).await,
        Endpoint::ContainerLogs => streams::logs(call).await,
        Endpoint::ContainerStart => containers::start(call).await,
        Endpoint::ContainerStop => containers::stop(call).await,
        Endpoint::ContainerRestart => containers::restart(call).await,
        Endpoint::ContainerKill => containers::kill(call).await,
        Endpoint::ContainerPause => containers::pause(call).await,
        Endpoint::ContainerUnpause => containers::unpause(call).await,
        Endpoint::ContainerRename => containers::rename(call).await,
        Endpoint::ContainerResize => containers::resize(call).await,
        Endpoint::ContainerAttach => streams::attach(call).await,
        Endpoint::ContainerAttachWebsocket => streams::attach_websocket(call).await,
        Endpoint::ContainerWait => streams::wait(call).await,
        Endpoint::ContainerChanges => archive::changes(call).await,
        Endpoint::ContainerExport => archive::export(call).await,
        Endpoint::ContainerArchiveHead => archive::head(call).await,
        Endpoint::ContainerArchiveGet => archive::get(call).await,
        Endpoint::ContainerArchivePut => archive::put(call).await,
        Endpoint::ImageAttestations => images::attestations(&call),
        Endpoint::ContainerWhy => containers::why(call).await,
        Endpoint::ContainerCommit => commit::commit(call).await,
        Endpoint::ContainerRemove => containers::remove(call).await,

        Endpoint::ExecCreate => exec::create(call).await,
        Endpoint::ExecStart => exec::start(call).await,
        Endpoint::ExecResize => exec::resize(call).await,
        Endpoint::ExecInspect => exec::inspect(call).await,

        Endpoint::ImageList => images::list(call).await,
        Endpoint::ImagePull => registry::pull(call).await,
        Endpoint::ImagePush => registry::push(call).await,
        Endpoint::ImageSearch => registry::search(call).await,
        Endpoint::ImageSave | Endpoint::ImageSaveMany => save::save(call).await,
        Endpoint::Distribution => registry::distribution(call).await,
        Endpoint::Auth => registry::auth(call).await,
        Endpoint::ImageLoad => images::load(call),
        Endpoint::ImagePrune => images::prune(call).await,
        Endpoint::ImageInspect => images::inspect(&call),
        Endpoint::ImageHistory => images::history(&call),
        Endpoint::ImageTag => images::tag(&call),
        Endpoint::ImageRemove => images::remove(call).await,

        Endpoint::Build => build::build(call).await,
        Endpoint::BuildKept => build_kept::build(call).await,
        Endpoint::BuildAgents => crate::agents::lend(call).await,
        Endpoint::BuildPrune => build_cache::prune(call).await,
        Endpoint::BuildCancel => Ok(buildkit::cancel(&call)),
        Endpoint::Session => buildkit::session(call),
        Endpoint::Grpc => buildkit::grpc(call),

        Endpoint::VolumeList => volumes::list(call).await,
        Endpoint::VolumeCreate => volumes::create(call).await,
        Endpoint::VolumePrune => volumes::prune(call).await,
        Endpoint::VolumeInspect => volumes::inspect(call).await,
        Endpoint::VolumeRemove => volumes::remove(call).await,
        Endpoint::VolumeUpdate => volumes::update(),
        Endpoint::VolumeRename => volumes::rename(call).await,
        Endpoint::VolumeClone => volumes::copy(call).await,
        Endpoint::VolumeExport => volumes::export(call).await,
        Endpoint::VolumeImport => volumes::import(call).await,
        Endpoint::VolumeRestore => volumes::restore(call).await,
        Endpoint::VolumeTrash => volumes::trash(call).await,
        Endpoint::VolumeTrashEmpty => volumes::empty_trash(call).await,

        Endpoint::NetworkList => networks::list(call).await,
        Endpoint::NetworkInspect => networks::inspect(call).await,
        Endpoint::NetworkRemove => networks::remove(call).await,
        Endpoint::NetworkCreate => networks::create(call).await,
        Endpoint::NetworkConnect => networks::connect(call).await,
        Endpoint::NetworkDisconnect => networks::disconnect(call).await,
        Endpoint::NetworkPrune => networks::prune(call).await,

        other => unavailable::answer(other, &call).await,
    }
}
