//! Connections, and the two threads: one for HTTP, and the caller's for the engine.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use crate::app::{App, now, router};
use crate::engine::TextEngine;
use crate::error::{Error, Result};
use crate::front::FrontSource;
use crate::host;
use crate::metrics::Metrics;
use crate::models::Models;
use crate::options::ServeOptions;
use crate::scorer::TextScorer;

/// How long a client may take to send the head of a request, also between two on one connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// How long clients may take to read the end of an answer that was cut off.
const FAREWELL: Duration = Duration::from_secs(1);
/// After an error of the system, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Ends a server from elsewhere.
#[derive(Debug, Clone)]
pub struct Stop(Arc<watch::Sender<bool>>);

impl Default for Stop {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }
}

impl Stop {
    /// Ends it as SIGTERM does: running requests are answered, and no others.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }

    async fn stopped(&self) {
        // Never fails: this is a sender itself.
        let _ = self.0.subscribe().wait_for(|stopped| *stopped).await;
    }
}

/// What a server may have besides its engine.
#[derive(Default)]
pub struct Extras {
    /// The rewards.
    pub scorer: Option<Arc<dyn TextScorer>>,
    /// The front of the last evaluation.
    pub front: Option<FrontSource>,
}

/// Serves a model until `stop` or, with `signals`, SIGTERM or SIGINT; a second signal ends the process at once. The calling
/// thread becomes the engine's. `on_ready` gets the address when clients can connect.
///
/// # Errors
/// A setting out of range, an address that cannot be listened at, an engine that panics while it is reset.
pub fn serve(
    engine: &mut dyn TextEngine,
    extras: Extras,
    options: ServeOptions,
    stop: &Stop,
    signals: bool,
    on_ready: impl FnOnce(SocketAddr),
) -> Result<()> {
    options.check()?;
    let io = |action| move |source| Error::Io { action, source };
    // Compute has the cores; this only moves bytes.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("mopo-http")
        .enable_all()
        .build()
        .map_err(io("starting threads"))?;
    if signals {
        watch_signals(&runtime, stop.clone()).map_err(io("waiting for signals"))?;
    }
    let address = SocketAddr::new(options.host, options.port);
    let listener = runtime
        .block_on(TcpListener::bind(address))
        .map_err(|source| Error::Bind { address, source })?;
    let address = listener.local_addr().map_err(io("the address of the socket"))?;

    let metrics = Arc::new(Metrics::default());
    let (engine_handle, host) =
        host::pair(options.queue, options.max_prompt_tokens, Arc::clone(&metrics));
    let patience = options.shutdown_timeout;
    let app = Arc::new(App {
        engine: engine_handle,
        models: Models { name: options.name.clone(), info: engine.model() },
        metrics,
        scorer: extras.scorer,
        front: extras.front,
        scoring: Semaphore::new(1),
        started: now(),
        ids: AtomicU64::new(0),
        seeds: AtomicU64::new(0),
        options,
    });
    on_ready(address);
    let http = {
        let stop = stop.clone();
        runtime.spawn(async move { accept(listener, app, &stop, patience).await })
    };
    let outcome = host.run(engine);
    // Already so, unless the engine cannot go on.
    stop.stop();
    let _ = runtime.block_on(http);
    // A reward that still computes is not waited for.
    runtime.shutdown_background();
    outcome
}

/// Takes connections until the stop, then waits for running requests.
async fn accept(listener: TcpListener, app: Arc<App>, stop: &Stop, patience: Duration) {
    let connections = Arc::new(Semaphore::new(app.options.max_connections));
    let graceful = GracefulShutdown::new();
    let service = router(Arc::clone(&app));
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_headers(128);
    loop {
        let accepted = async {
            let place = Arc::clone(&connections).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            () = stop.stopped() => break,
            accepted = accepted => accepted,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        // Tokens are small and must not wait for each other.
        let _ = stream.set_nodelay(true);
        let service = TowerToHyperService::new(service.clone());
        let connection = graceful.watch(server.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            // A client that leaves or sends no HTTP is not an error of the server.
            let _ = connection.await;
            drop(place);
        });
    }
    drop(listener);
    app.engine.close();
    tracing::info!(
        "shutting down: {} answers are still being written",
        app.metrics.running.load(Ordering::Relaxed)
    );
    let mut ended = std::pin::pin!(graceful.shutdown());
    if tokio::time::timeout(patience, &mut ended).await.is_err() {
        tracing::warn!(
            "some answers took longer than {} s and were cut off",
            patience.as_secs_f64()
        );
        app.engine.stop();
        // They are told so.
        let _ = tokio::time::timeout(FAREWELL, ended).await;
    }
    app.engine.stop();
}

/// Stops at the first SIGTERM or SIGINT, and ends the process at the second.
fn watch_signals(runtime: &tokio::runtime::Runtime, stop: Stop) -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let _guard = runtime.enter();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    runtime.spawn(async move {
        for n in 0.. {
            let number = tokio::select! {
                _ = terminate.recv() => 15,
                _ = interrupt.recv() => 2,
            };
            if n > 0 {
                // As a shell reports a process that a signal ended.
                std::process::exit(128 + number);
            }
            stop.stop();
        }
    });
    Ok(())
}
