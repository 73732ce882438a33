//! A web service in Kubernetes, and the pod settings that fit its shutdown.
//!
//! ```sh
//! cargo run --features axum --example kubernetes                  # serves on 127.0.0.1:8080
//! cargo run --features axum --example kubernetes 127.0.0.1:0      # serves on any free port
//! cargo run --features axum --example kubernetes pod-spec         # prints what belongs into the pod's spec
//! ```
//!
//! When a pod is deleted, two things begin at the same time: the kubelet sends SIGTERM, and the pod is taken out of the
//! endpoints of its services. The second takes a while to reach every proxy, so requests still arrive after the SIGTERM.
//! A service that closes its listener at once refuses them. So the first phase only holds: readiness is off, and requests are
//! served as before.
//!
//! That is what a `preStop` hook with a `sleep` is often used for. Here none is needed, and it would do harm: it runs before
//! the SIGTERM, so the service does not know yet that it is going, and its time counts against
//! `terminationGracePeriodSeconds` without anybody in the process knowing of it.
//!
//! The trap: `terminationGracePeriodSeconds` is 30 by default. A drain of 30 seconds needs all of it, and SIGKILL comes before
//! anything is saved. It must be above the worst case of the whole shutdown, which the plan knows.
//!
//! Signals reach the process with the id 1: start the service with the exec form (`CMD ["/app"]`), not by a shell.
#![allow(clippy::print_stdout, reason = "an example")]

use std::{env, error::Error, process::ExitCode, time::Duration};

use axum::{Router, extract::State, http::StatusCode, routing::get};
use shutdown_coordinator::{
    Builder, PhaseId, Plan, Report, ShutdownCoordinator, ShutdownHandle, SignalPolicy, run_main, serve::Server,
};

const SECOND: Duration = Duration::from_secs(1);

/// What the runtime may take to end after the shutdown is over.
const RUNTIME_END: Duration = SECOND;

/// How often the kubelet asks `/ready`. With a failure threshold of 1, readiness is off after this long at most.
const READINESS_PERIOD: Duration = SECOND;

/// How long it may take until every proxy and load balancer has heard that the pod is not ready. 5 seconds are common;
/// measure it in your cluster.
const PROPAGATION: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let argument = env::args().nth(1);
    if argument.as_deref() == Some("pod-spec") {
        return match describe().0.build() {
            Ok((coordinator, handle)) => {
                println!("{}", pod_spec(&handle.plan()));
                drop(coordinator);
                ExitCode::SUCCESS
            }
            Err(error) => {
                println!("{error}");
                ExitCode::FAILURE
            }
        };
    }
    run_main(RUNTIME_END, service(argument.unwrap_or_else(|| "127.0.0.1:8080".to_owned())))
}

/// The shutdown, in one place, for the service and for its pod's settings.
fn describe() -> (Builder, PhaseId, PhaseId) {
    let mut builder = ShutdownCoordinator::builder();
    // Nothing happens here but time: the last requests find their way to other pods.
    let announce = builder.phase("announce").hold(READINESS_PERIOD + PROPAGATION).id();
    let stop = builder.phase("stop-accepting").after(&[announce]).timeout(15 * SECOND).point_of_no_return().id();
    let persist = builder.phase("persist").after(&[stop]).reserve(3 * SECOND).id();
    (builder.deadline(25 * SECOND).watchdog(2 * SECOND), stop, persist)
}

/// What belongs into the pod's spec: from the trigger, the process needs the deadline, then at worst the margin of the
/// watchdog, then the end of the runtime. One more second for the container to be gone.
fn pod_spec(plan: &Plan) -> String {
    let worst = plan.worst_case() + RUNTIME_END;
    let grace = worst.as_secs() + 1;
    let period = READINESS_PERIOD.as_secs();
    [
        &*format!("      terminationGracePeriodSeconds: {grace}"),
        "      containers:",
        "        - name: app",
        "          readinessProbe:",
        "            httpGet: { path: /ready, port: 8080 }",
        &*format!("            periodSeconds: {period}"),
        "            failureThreshold: 1",
        "          # Alive until the end: a liveness probe that fails during the drain would have the pod killed.",
        "          livenessProbe:",
        "            httpGet: { path: /live, port: 8080 }",
    ]
    .join("\n")
}

async fn service(address: String) -> Result<Report, Box<dyn Error>> {
    let (builder, stop, persist) = describe();
    // Before anything else that takes time: a SIGTERM from here on is not lost, it ends the start-up.
    let (coordinator, handle) = builder.signals(SignalPolicy::default()).build()?;

    let router = Router::new()
        .route("/", get(async || "hello\n"))
        .route("/ready", get(ready).with_state(handle.clone()))
        .route("/live", get(StatusCode::OK));
    let listener = tokio::net::TcpListener::bind(address).await?;
    println!("listening on {}", listener.local_addr()?);
    Server::new(&handle, stop, router).linger(SECOND).serve_tcp(listener)?;
    handle.on(persist, "flush the log", |cx| async move { cx.note("flushed") })?;

    let report = coordinator.run().await;
    println!("{report}");
    Ok(report)
}

/// Off from the trigger on, before the listener closes.
async fn ready(State(handle): State<ShutdownHandle>) -> StatusCode {
    if handle.is_shutting_down() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK }
}
