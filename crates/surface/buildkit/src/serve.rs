//! gRPC over a connection that has left HTTP/1: which call is which.

use crate::Builders;
use crate::control::{Job, pong, status_of, version, worker};
use crate::disk;
use crate::error::{KitError, Result};
use crate::wire::{HealthResponse, control, gateway};
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream, StreamExt};
use hyper::body::Incoming;
use hyper::rt::{Read, Write};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioExecutor;
use naru_engine::Engine;
use prost::Message;
use std::convert::Infallible;
use std::future::ready;
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::broadcast::error::RecvError;
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
            streaming(request, move |asked: control::StatusRequest| {
                let job = builders.job(&asked.r#ref);
                Box::pin(ready(Ok(status_stream(job))))
            })
            .await
        }
        "/moby.buildkit.v1.Control/DiskUsage" => {
            unary(request, move |asked: Request<control::DiskUsageRequest>| {
                let engine = Arc::clone(&engine);
                async move { answer(disk::usage(engine, asked.into_inner()).await) }
            })
            .await
        }
        "/moby.buildkit.v1.Control/Prune" => {
            streaming(request, move |asked: control::PruneRequest| {
                let engine = Arc::clone(&engine);
                Box::pin(async move {
                    let gone = disk::prune(engine, asked).await;
                    let gone = gone.map_err(|error| status_of(&error))?;
                    Ok(stream::iter(gone.into_iter().map(Ok)).boxed())
                })
            })
            .await
        }
        "/moby.buildkit.v1.Control/ListenBuildHistory" => {
            streaming(request, move |asked: control::BuildHistoryRequest| {
                Box::pin(ready(history_stream(&builders, asked)))
            })
            .await
        }
        "/moby.buildkit.v1.Control/UpdateBuildHistory" => {
            unary(
                request,
                move |asked: Request<control::UpdateBuildHistoryRequest>| {
                    let updated = builders.history.update(asked.get_ref());
                    let updated = updated.map(|()| control::UpdateBuildHistoryResponse {});
                    ready(answer(updated))
                },
            )
            .await
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

type Messages<A> = BoxStream<'static, Result<A, Status>>;

fn status_stream(job: Arc<Job>) -> Messages<control::StatusResponse> {
    let statuses = stream::unfold(job, |job| async move {
        let status = job.next_status().await?;
        Some((Ok(status), job))
    });
    statuses.boxed()
}

/// What is known of builds, and then what becomes of them.
fn history_stream(
    builders: &Builders,
    asked: control::BuildHistoryRequest,
) -> Result<Messages<control::BuildHistoryEvent>, Status> {
    let listened = builders.history.listen(&asked);
    let (known, coming) = listened.map_err(|error| status_of(&error))?;
    let known = stream::iter(known.into_iter().map(Ok));
    let Some(coming) = coming else {
        return Ok(known.boxed());
    };
    let coming = stream::unfold(coming, |mut coming| async move {
        loop {
            match coming.recv().await {
                Ok(event) => return Some((Ok(event), coming)),
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
        }
    });
    let is_wanted = move |event: &Result<control::BuildHistoryEvent, Status>| {
        let record = event.as_ref().ok().and_then(|event| event.record.as_ref());
        let is_wanted = asked.r#ref.is_empty() || record.is_some_and(|record| record.r#ref == asked.r#ref);
        ready(is_wanted)
    };
    Ok(known.chain(coming.filter(is_wanted)).boxed())
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

/// Messages on their way. Boxed, as is the answer: of a closure's own type the compiler cannot tell that it may be sent.
type Streamed<A> = BoxFuture<'static, Result<Messages<A>, Status>>;

fn streaming<Q, A, F>(request: HttpRequest, call: F) -> BoxFuture<'static, HttpResponse>
where
    Q: Message + Default + Send + Sync + 'static,
    A: Message + Send + Sync + 'static,
    F: FnMut(Q) -> Streamed<A> + Send + 'static,
{
    let mut grpc = Grpc::new(ProstCodec::<A, Q>::default());
    Box::pin(async move { grpc.server_streaming(Streaming(call), request).await })
}

struct Streaming<F>(F);

impl<F, Q, A> ServerStreamingService<Q> for Streaming<F>
where
    A: Message + Send + Sync + 'static,
    F: FnMut(Q) -> Streamed<A>,
{
    type Response = A;
    type ResponseStream = Messages<A>;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Messages<A>>, Status>> + Send>>;

    fn call(&mut self, asked: Request<Q>) -> Self::Future {
        let answered = (self.0)(asked.into_inner());
        Box::pin(async move { answered.await.map(Response::new) })
    }
}
