//! A build, or a question about one, steered over `LLBBridge` as buildx does: `buildkit-client SOCKET call ARCHIVE
//! [KEY=VALUE …]` gives the frontend these options, prints what the answer's metadata has and the warnings that are told.

use crate::connect;
use bollard_buildkit_proto::moby::buildkit::v1 as kit;
use bollard_buildkit_proto::moby::upload::v1::BytesMessage;
use bollard_buildkit_proto::moby::upload::v1::upload_server::{Upload, UploadServer};
use kit::control_client::ControlClient;
use kit::frontend::llb_bridge_client::LlbBridgeClient;
use kit::frontend::{PingRequest, Result as Answer, ReturnRequest, SolveRequest};
use std::collections::HashMap;
use std::pin::Pin;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};

/// Names this program's only build and session.
const NAME: &str = "steered";

pub struct Archive(pub Vec<u8>);

#[tonic::async_trait]
impl Upload for Archive {
    type PullStream = Pin<Box<dyn futures_util::Stream<Item = Result<BytesMessage, Status>> + Send>>;

    async fn pull(&self, _: Request<Streaming<BytesMessage>>) -> Result<Response<Self::PullStream>, Status> {
        let pieces: Vec<_> = self.0.chunks(32 << 10).map(|data| Ok(BytesMessage { data: data.to_vec() })).collect();
        Ok(Response::new(Box::pin(futures_util::stream::iter(pieces))))
    }
}

pub async fn channel(socket: &str) -> Channel {
    let socket = socket.to_owned();
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { connect(&socket, "/grpc", "").await.map(hyper_util::rt::TokioIo::new) }
    });
    Endpoint::from_static("http://engine").connect_with_connector(connector).await.unwrap()
}

fn named<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("buildkit-controlapi-buildid", NAME.parse().unwrap());
    request
}

fn print_warning(warning: &kit::VertexWarning, names: &HashMap<String, String>) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let info = warning.info.clone().unwrap_or_default();
    let range = warning.ranges[0];
    let details: Vec<String> = warning.detail.iter().map(|line| text(line)).collect();
    let lines = (range.start.unwrap().line, range.end.unwrap().line);
    println!("warning {} {:?} {} {}", warning.level, names[&warning.vertex], text(&warning.short), warning.url);
    println!("about {} {lines:?} {} {} {}", info.filename, info.language, info.data.len(), details.join(" "));
}

async fn print_statuses(mut control: ControlClient<Channel>) {
    let asked = kit::StatusRequest { r#ref: NAME.to_owned() };
    let mut statuses = control.status(asked).await.unwrap().into_inner();
    let mut names = HashMap::new();
    while let Some(status) = statuses.message().await.unwrap() {
        names.extend(status.vertexes.into_iter().map(|vertex| (vertex.digest, vertex.name)));
        for warning in &status.warnings {
            print_warning(warning, &names);
        }
    }
}

pub async fn call(socket: &str, archive: &str, options: &[String]) {
    let archive = Archive(std::fs::read(archive).unwrap());
    let offers = format!("X-Docker-Expose-Session-Uuid: {NAME}\r\nX-Docker-Expose-Session-Grpc-Method: /moby.upload.v1.Upload/Pull\r\n");
    let session: UnixStream = connect(socket, "/session", &offers).await.unwrap();
    let served = futures_util::stream::iter([Ok::<_, std::io::Error>(session)]);
    tokio::spawn(Server::builder().add_service(UploadServer::new(archive)).serve_with_incoming(served));
    let channel = channel(socket).await;
    let mut bridge = LlbBridgeClient::new(channel.clone());
    let able = bridge.ping(PingRequest {}).await.unwrap().into_inner().frontend_api_caps;
    assert!(able.iter().any(|one| one.id == "frontend.caps" && one.enabled), "{able:?}");
    let statuses = tokio::spawn(print_statuses(ControlClient::new(channel.clone())));
    let announced = kit::SolveRequest { r#ref: NAME.to_owned(), session: NAME.to_owned(), ..Default::default() };
    let mut control = ControlClient::new(channel);
    let steered = tokio::spawn(async move { control.solve(announced).await });
    let mut given: HashMap<String, String> = options.iter().map(|word| word.split_once('=').unwrap()).map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    given.insert("context".to_owned(), "http://buildkit-session/context".to_owned());
    let asked = SolveRequest { frontend: "dockerfile.v0".to_owned(), frontend_opt: given, allow_result_return: true, allow_result_array_ref: true, ..Default::default() };
    let answered = bridge.solve(named(asked)).await;
    let mut error = None;
    match answered {
        Ok(answered) => {
            let answer: Answer = answered.into_inner().result.unwrap();
            for (key, value) in answer.metadata {
                println!("== {key}\n{}", String::from_utf8(value).unwrap());
            }
        }
        Err(status) => {
            println!("refused {:?} {}", status.code(), status.message());
            error = Some(bollard_buildkit_proto::google::rpc::Status { message: status.message().to_owned(), ..Default::default() });
        }
    }
    bridge.r#return(named(ReturnRequest { error, ..Default::default() })).await.unwrap();
    let _ = steered.await.unwrap();
    statuses.await.unwrap();
}
