//! The thread that drives the engine: a queue in front of it, cancellation, and what happens when it panics.

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::engine::{EventSink, Refusal, TextEngine, TextEvent, TextRequest};
use crate::error::{ApiError, Error, Result};
use crate::metrics::Metrics;

/// How long the pool's other work waits at most for an idle engine.
const POOL_PAUSE: Duration = Duration::from_millis(10);

/// Whether the place of a ticket in the queue has been given back.
const WAITING: u8 = 0;
const LEFT_QUEUE: u8 = 1;

/// What HTTP and the engine's thread share of one request.
struct Ticket {
    cancelled: AtomicBool,
    state: AtomicU8,
    waiting: Arc<AtomicUsize>,
}

impl Ticket {
    /// Gives the place in the queue back, once.
    fn leave_queue(&self) {
        if self.state.swap(LEFT_QUEUE, Ordering::SeqCst) == WAITING {
            self.waiting.fetch_sub(1, Ordering::SeqCst);
        }
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::SeqCst)
    }
}

/// A request on its way to the engine.
struct Waiting {
    id: u64,
    /// Its number among those of one HTTP request.
    index: usize,
    request: TextRequest,
    events: UnboundedSender<(usize, TextEvent)>,
    ticket: Arc<Ticket>,
    since: Instant,
}

enum Command {
    Submit(Vec<Waiting>),
    /// Ends the thread, whatever is running.
    Stop,
}

/// The side of HTTP.
#[derive(Clone)]
pub(crate) struct EngineHandle {
    commands: Sender<Command>,
    next_id: Arc<AtomicU64>,
    waiting: Arc<AtomicUsize>,
    /// How many requests may wait.
    queue: usize,
    /// Nothing is taken on any more.
    closed: Arc<AtomicBool>,
    /// Nothing is wanted any more.
    stopped: Arc<AtomicBool>,
}

/// The side of the engine.
pub(crate) struct Host {
    commands: Receiver<Command>,
    metrics: Arc<Metrics>,
    closed: Arc<AtomicBool>,
    stopped: Arc<AtomicBool>,
    max_prompt_tokens: usize,
    waiting: VecDeque<Waiting>,
    running: BTreeMap<u64, Waiting>,
}

/// The answers to one HTTP request, in parts. Dropping it cancels what is not answered yet.
pub(crate) struct Answers {
    /// Events with the index of their request.
    pub(crate) events: UnboundedReceiver<(usize, TextEvent)>,
    tickets: Vec<Arc<Ticket>>,
}

impl Drop for Answers {
    fn drop(&mut self) {
        for ticket in &self.tickets {
            ticket.cancelled.store(true, Ordering::SeqCst);
            ticket.leave_queue();
        }
    }
}

/// Both sides; at most `queue` requests wait.
pub(crate) fn pair(
    queue: usize,
    max_prompt_tokens: usize,
    metrics: Arc<Metrics>,
) -> (EngineHandle, Host) {
    let (sender, commands) = channel();
    let (closed, stopped) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
    let handle = EngineHandle {
        commands: sender,
        next_id: Arc::default(),
        waiting: Arc::clone(&metrics.waiting),
        queue,
        closed: Arc::clone(&closed),
        stopped: Arc::clone(&stopped),
    };
    let (waiting, running) = (VecDeque::new(), BTreeMap::new());
    (handle, Host { commands, metrics, closed, stopped, max_prompt_tokens, waiting, running })
}

impl EngineHandle {
    /// Queues all `requests`, or none.
    pub(crate) fn submit(
        &self,
        requests: Vec<TextRequest>,
    ) -> std::result::Result<Answers, ApiError> {
        let n = requests.len();
        let room = |waiting: usize| (waiting + n <= self.queue).then_some(waiting + n);
        if self.waiting.fetch_update(Ordering::SeqCst, Ordering::SeqCst, room).is_err() {
            let message = format!(
                "too many requests: {} of {} places in the queue are taken; try again later",
                self.waiting.load(Ordering::SeqCst),
                self.queue
            );
            let error = ApiError::new(axum::http::StatusCode::TOO_MANY_REQUESTS, message);
            return Err(error.code("queue_full").retry_after(1));
        }
        let (sender, events) = unbounded_channel();
        let (mut tickets, mut all) = (Vec::with_capacity(n), Vec::with_capacity(n));
        for (index, request) in requests.into_iter().enumerate() {
            let ticket = Arc::new(Ticket {
                cancelled: AtomicBool::new(false),
                state: AtomicU8::new(WAITING),
                waiting: Arc::clone(&self.waiting),
            });
            tickets.push(Arc::clone(&ticket));
            let id = self.next_id.fetch_add(1, Ordering::SeqCst);
            let (events, since) = (sender.clone(), Instant::now());
            all.push(Waiting { id, index, request, events, ticket, since });
        }
        // Before the check: whoever closes looks at what was sent before.
        let answers = Answers { events, tickets };
        if self.closed.load(Ordering::SeqCst) {
            return Err(ApiError::shutting_down());
        }
        match self.commands.send(Command::Submit(all)) {
            Ok(()) => Ok(answers),
            Err(_) => Err(ApiError::shutting_down()),
        }
    }

    /// Refuses new requests and those that wait; the running ones go on.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        // Wakes the thread up.
        let _ = self.commands.send(Command::Submit(vec![]));
    }

    /// Whether the server ends.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Ends the engine's thread; what is running is cut off.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        let _ = self.commands.send(Command::Stop);
    }
}

impl Host {
    /// Drives the engine until it is told to stop.
    ///
    /// # Errors
    /// The engine panicked while it was reset.
    pub(crate) fn run(mut self, engine: &mut dyn TextEngine) -> Result<()> {
        loop {
            let idle = self.waiting.is_empty() && self.running.is_empty() && engine.is_idle();
            if !self.take_commands(idle) {
                return Ok(());
            }
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                self.drop_unwanted(engine);
                self.admit(engine);
                self.metrics.running.store(self.running.len(), Ordering::Relaxed);
                if !engine.is_idle() {
                    let mut sink = Sink {
                        running: &mut self.running,
                        metrics: &self.metrics,
                        stopped: &self.stopped,
                    };
                    engine.step(&mut sink);
                }
                // Some that it ended without an event.
                self.drop_unwanted(engine);
                engine.stats()
            }));
            match outcome {
                Ok(stats) => {
                    self.metrics.engine(&stats);
                    if engine.is_idle() && !self.running.is_empty() {
                        self.fail("the engine lost this request; try again");
                    }
                }
                Err(_) => self.recover(engine)?,
            }
            self.metrics.running.store(self.running.len(), Ordering::Relaxed);
        }
    }

    /// Takes all commands, and waits for one if there is nothing else to do. False: the end.
    fn take_commands(&mut self, idle: bool) -> bool {
        let mut next = match idle {
            true => self.wait_for_command().ok_or(TryRecvError::Disconnected),
            false => self.commands.try_recv(),
        };
        loop {
            match next {
                Ok(Command::Submit(requests)) => self.waiting.extend(requests),
                Ok(Command::Stop) | Err(TryRecvError::Disconnected) => return false,
                Err(TryRecvError::Empty) => return true,
            }
            next = self.commands.try_recv();
        }
    }

    /// The next command; `None`: there is nobody left to send one. On a thread of rayon's pool, where kernels want the
    /// engine to be, others' work for the pool is done meanwhile: it may be the only thread.
    fn wait_for_command(&self) -> Option<Command> {
        loop {
            let patience = match rayon::yield_now() {
                None => return self.commands.recv().ok(),
                Some(rayon::Yield::Executed) => Duration::ZERO,
                Some(rayon::Yield::Idle) => POOL_PAUSE,
            };
            match self.commands.recv_timeout(patience) {
                Ok(command) => return Some(command),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
    }

    /// Forgets requests whose clients have gone, and when the server closes, those that wait.
    fn drop_unwanted(&mut self, engine: &mut dyn TextEngine) {
        if self.closed.load(Ordering::SeqCst) {
            for waiting in self.waiting.drain(..) {
                waiting.ticket.leave_queue();
                // Without an event: the receiver's end says that there will be none.
            }
        }
        let metrics = &self.metrics;
        self.waiting.retain(|waiting| {
            let wanted = !waiting.ticket.is_cancelled();
            metrics.cancelled.add(u64::from(!wanted));
            wanted
        });
        self.running.retain(|id, running| {
            let wanted = !running.ticket.is_cancelled();
            if !wanted {
                engine.cancel(*id);
                metrics.cancelled.add(1);
            }
            wanted
        });
    }

    fn admit(&mut self, engine: &mut dyn TextEngine) {
        while engine.room() > 0 {
            let Some(next) = self.waiting.pop_front() else { return };
            next.ticket.leave_queue();
            let (id, request) = (next.id, next.request.clone());
            // In the list first, so that it is told if this panics.
            let sender = next.events.clone();
            let (index, since) = (next.index, next.since);
            self.running.insert(id, next);
            let admitted = engine.submit(id, request);
            let event = match admitted {
                Ok(admitted) if admitted.prompt_tokens > self.max_prompt_tokens => {
                    engine.cancel(id);
                    TextEvent::Failed(Refusal {
                        kind: crate::engine::RefusalKind::TooLong,
                        message: format!(
                            "the prompt has {} tokens; this server takes at most {}",
                            admitted.prompt_tokens, self.max_prompt_tokens
                        ),
                        param: None,
                    })
                }
                Ok(admitted) => {
                    self.metrics.queue_time.observe(since.elapsed().as_secs_f64());
                    self.metrics.prompt_tokens.add(admitted.prompt_tokens as u64);
                    TextEvent::Started(admitted)
                }
                Err(refusal) => TextEvent::Failed(refusal),
            };
            if matches!(event, TextEvent::Failed(_)) {
                self.running.remove(&id);
            }
            // Nobody may wait any more.
            let _ = sender.send((index, event));
        }
    }

    /// After a panic: every running request fails, and the engine starts anew.
    fn recover(&mut self, engine: &mut dyn TextEngine) -> Result<()> {
        tracing::error!("the engine panicked; {} requests are lost", self.running.len());
        self.metrics.panics.add(1);
        self.fail("the engine failed on this batch of requests; try again");
        let reset = catch_unwind(AssertUnwindSafe(|| {
            engine.reset();
            engine.stats()
        }));
        self.metrics.engine(&reset.map_err(|_| Error::Engine)?);
        Ok(())
    }

    /// Tells every running request that it has failed.
    fn fail(&mut self, why: &str) {
        for (_, running) in std::mem::take(&mut self.running) {
            let failed = TextEvent::Failed(Refusal::internal(why));
            let _ = running.events.send((running.index, failed));
        }
    }
}

/// Sends events to whoever waits for them.
struct Sink<'a> {
    running: &'a mut BTreeMap<u64, Waiting>,
    metrics: &'a Metrics,
    stopped: &'a AtomicBool,
}

impl EventSink for Sink<'_> {
    fn event(&mut self, id: u64, event: TextEvent) {
        let Some(running) = self.running.get(&id) else { return };
        let is_last = matches!(event, TextEvent::End { .. } | TextEvent::Failed(_));
        if let TextEvent::End { completion_tokens, cached_tokens, .. } = event {
            self.metrics.completion_tokens.add(completion_tokens as u64);
            self.metrics.cached_tokens.add(cached_tokens as u64);
        }
        let _ = running.events.send((running.index, event));
        if is_last {
            self.running.remove(&id);
        }
    }

    fn is_cancelled(&self, id: u64) -> bool {
        self.stopped.load(Ordering::SeqCst)
            || self.running.get(&id).is_none_or(|running| running.ticket.is_cancelled())
    }
}
