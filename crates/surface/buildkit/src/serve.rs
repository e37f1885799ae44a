//! gRPC over a connection that has left HTTP/1: which call is which.

use crate::Builders;
use crate::control::{Job, pong, status_of, version, worker};
use crate::error::{KitError, Result};
use crate::wire::{HealthResponse, control, gateway};
use futures_util::stream::{self, BoxStream, StreamExt};
use hyper::body::Incoming;
use hyper::rt::{Read, Write};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioExecutor;
use naru_engine::Engine;
use prost::Message;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::sync::Arc;
use tonic::body::Body;
use tonic::server::{Grpc, ServerStreamingService, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

/// Which build a steering call is about.
const BUILD: &str = "buildkit-controlapi-buildid";

type HttpRequest = hyper::Request<Incoming>;
type HttpResponse = hyper::Response<Body>;

impl Builders {
    /// Serves `Control` and `LLBBridge` until the client leaves; its builds end with it.
    pub async fn serve_grpc<I>(self: Arc<Self>, engine: Arc<Engine>, connection: I) -> Result<()>
    where
        I: Read + Write + Unpin + Send + 'static,
    {
        let service = service_fn(move |request| {
            let (builders, engine) = (Arc::clone(&self), Arc::clone(&engine));
            async move { Ok::<_, Infallible>(route(builders, engine, request).await) }
        });
        http2::Builder::new(TokioExecutor::new())
            .serve_connection(connection, service)
            .await
            .map_err(|error| KitError::Connection(error.to_string()))
    }
}

async fn route(builders: Arc<Builders>, engine: Arc<Engine>, request: HttpRequest) -> HttpResponse {
    match request.uri().path() {
        "/moby.buildkit.v1.Control/Solve" => {
            unary(request, move |asked: Request<control::SolveRequest>| {
                let (builders, engine) = (Arc::clone(&builders), Arc::clone(&engine));
                async move { answer(builders.solve(engine, asked.into_inner()).await) }
            })
            .await
        }
        "/moby.buildkit.v1.Control/Status" => {
            let mut grpc =
                Grpc::new(ProstCodec::<control::StatusResponse, control::StatusRequest>::default());
            grpc.server_streaming(StatusCall(builders), request).await
        }
        "/moby.buildkit.v1.Control/ListWorkers" => {
            unary(request, |_: Request<control::ListWorkersRequest>| async {
                Ok(Response::new(control::ListWorkersResponse {
                    record: vec![worker()],
                }))
            })
            .await
        }
        "/moby.buildkit.v1.Control/Info" => {
            unary(request, |_: Request<control::InfoRequest>| async {
                Ok(Response::new(control::InfoResponse {
                    buildkit_version: Some(version()),
                }))
            })
            .await
        }
        "/moby.buildkit.v1.frontend.LLBBridge/Ping" => {
            unary(request, |_: Request<gateway::PingRequest>| async {
                Ok(Response::new(pong()))
            })
            .await
        }
        "/moby.buildkit.v1.frontend.LLBBridge/Solve" => {
            unary(request, move |asked: Request<gateway::SolveRequest>| {
                let (builders, engine) = (Arc::clone(&builders), Arc::clone(&engine));
                let build = build_of(&asked);
                async move { answer(builders.steer(engine, &build, asked.into_inner()).await) }
            })
            .await
        }
        "/moby.buildkit.v1.frontend.LLBBridge/Return" => {
            unary(request, move |asked: Request<gateway::ReturnRequest>| {
                builders.take_return(&build_of(&asked), asked.into_inner());
                async { Ok(Response::new(gateway::ReturnResponse {})) }
            })
            .await
        }
        "/grpc.health.v1.Health/Check" => {
            unary(request, |_: Request<()>| async {
                // SERVING, in grpc.health.v1.
                Ok(Response::new(HealthResponse { status: 1 }))
            })
            .await
        }
        other => Status::unimplemented(format!("{other} is not supported: build from a Dockerfile"))
            .into_http::<Body>(),
    }
}

fn answer<T>(outcome: Result<T>) -> Result<Response<T>, Status> {
    outcome.map(Response::new).map_err(|error| status_of(&error))
}

fn build_of<T>(asked: &Request<T>) -> String {
    let id = asked.metadata().get(BUILD).and_then(|id| id.to_str().ok());
    id.unwrap_or_default().to_owned()
}

type Statuses = BoxStream<'static, Result<control::StatusResponse, Status>>;

fn status_stream(job: Arc<Job>) -> Statuses {
    let statuses = stream::unfold(job, |job| async move {
        let status = job.next_status().await?;
        Some((Ok(status), job))
    });
    statuses.boxed()
}

async fn unary<Q, A, F, T>(request: HttpRequest, call: F) -> HttpResponse
where
    Q: Message + Default + Send + Sync + 'static,
    A: Message + Send + Sync + 'static,
    F: FnMut(Request<Q>) -> T,
    T: Future<Output = Result<Response<A>, Status>> + Send + 'static,
{
    Grpc::new(ProstCodec::<A, Q>::default())
        .unary(Unary(call), request)
        .await
}

struct Unary<F>(F);

impl<F, Q, A, T> UnaryService<Q> for Unary<F>
where
    F: FnMut(Request<Q>) -> T,
    T: Future<Output = Result<Response<A>, Status>> + Send + 'static,
{
    type Response = A;
    type Future = Pin<Box<dyn Future<Output = Result<Response<A>, Status>> + Send>>;

    fn call(&mut self, request: Request<Q>) -> Self::Future {
        Box::pin((self.0)(request))
    }
}

struct StatusCall(Arc<Builders>);

impl ServerStreamingService<control::StatusRequest> for StatusCall {
    type Response = control::StatusResponse;
    type ResponseStream = Statuses;
    type Future = Ready<Result<Response<Statuses>, Status>>;

    fn call(&mut self, asked: Request<control::StatusRequest>) -> Self::Future {
        let job = self.0.job(&asked.get_ref().r#ref);
        ready(Ok(Response::new(status_stream(job))))
    }
}
