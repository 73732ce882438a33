//! An HTTP server with a websocket, drained in phases: `cargo run --example axum_websocket --features axum`.
#![allow(clippy::print_stdout, reason = "an example")]

use std::{error::Error, net::SocketAddr, process::ExitCode, time::Duration};

use axum::{
    Router,
    extract::{
        ConnectInfo, State,
        ws::{Message, WebSocket, WebSocketUpgrade},
    },
    http::StatusCode,
    response::{IntoResponse as _, Response},
    routing::{any, get, post},
};
use shutdown_coordinator::{
    Report, ShutdownCoordinator, ShutdownHandle, SignalPolicy, run_main,
    serve::{self, DrainLayer, Server, Session, Sessions},
};

const SECOND: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    run_main(SECOND, service())
}

async fn service() -> Result<Report, Box<dyn Error>> {
    let mut builder = ShutdownCoordinator::builder();
    let announce = builder.phase("announce").hold(2 * SECOND).id();
    let stop = builder.phase("stop-accepting").after(&[announce]).timeout(5 * SECOND).point_of_no_return().id();
    let intake = builder.phase("stop-intake").after(&[stop]).timeout(2 * SECOND).id();
    let streams = builder.phase("close-streams").after(&[intake]).timeout(3 * SECOND).id();
    let (coordinator, handle) =
        builder.deadline(20 * SECOND).watchdog(2 * SECOND).signals(SignalPolicy::default()).build()?;

    // Intake says 503 once its phase has started; health and websockets are not behind it.
    let intake = DrainLayer::new(handle.gate(intake, "intake"));
    let router = Router::new()
        .route("/orders", post(async || StatusCode::ACCEPTED))
        .layer(intake)
        .route("/ready", get(ready).with_state(handle.clone()))
        .route("/peer", get(async |ConnectInfo(peer): ConnectInfo<SocketAddr>| peer.to_string()))
        .route("/ws", any(websocket).with_state(Sessions::new(&handle, streams, "websockets").refuse_from(stop)));

    // Whoever is connected is answered until the websockets close: /ready says 503, and /orders in the end.
    let server = || Server::new(&handle, stop, router.clone()).linger(SECOND).keep_connections_until(streams);
    let inherited = serve::inherited()?;
    if inherited.is_empty() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
        println!("listening on {}", listener.local_addr()?);
        server().serve_tcp(listener)?;
    }
    // From systemd, or from whoever runs this beside its predecessor.
    for socket in inherited {
        println!("serving the inherited socket {}", socket.name);
        server().shared_listener(true).serve_inherited(socket)?;
    }

    let report = coordinator.run().await;
    println!("{report}");
    Ok(report)
}

async fn ready(State(handle): State<ShutdownHandle>) -> StatusCode {
    if handle.is_shutting_down() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK }
}

async fn websocket(
    State(sessions): State<Sessions>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    upgrade: WebSocketUpgrade,
) -> Response {
    let upgraded = sessions.on_upgrade(upgrade, format!("websocket of {peer}"), echo);
    upgraded.unwrap_or_else(|_| StatusCode::SERVICE_UNAVAILABLE.into_response())
}

/// Echoes until the peer or the shutdown ends it, then says goodbye and waits for the peer's Close.
async fn echo(mut socket: WebSocket, session: Session) {
    loop {
        tokio::select! {
            () = session.closing().cancelled() => break,
            message = socket.recv() => match message {
                Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => {
                    if socket.send(message).await.is_err() {
                        return;
                    }
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return,
            },
        }
    }
    if socket.send(Message::text("goodbye")).await.is_ok() {
        session.close(socket).await;
    }
}
