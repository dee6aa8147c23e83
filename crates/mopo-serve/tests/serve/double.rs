//! An engine whose answers are a function of the request, and which fails and dawdles on request.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use mopo_lm::HeadChoice;
use mopo_serve::{
    Admitted, EndReason, EngineStats, EventSink, Extras, Front, FrontSource, ModelInfo, Point,
    Prompt, Refusal, RefusalKind, ScoreItem, ServeOptions, Stop, TextEngine, TextEvent,
    TextRequest, TextScorer, Token, TokenLogProb, serve,
};
use mopo_train::StopScanner;

/// What the model of the double never takes: more words.
pub(crate) const CONTEXT: usize = 1000;
/// New tokens of requests that name no number.
const DEFAULT_TOKENS: usize = 64;

/// An answer that is being given.
struct Row {
    request: TextRequest,
    words: Vec<String>,
    next: usize,
    scanner: StopScanner,
}

/// Words in the last message steer it: `slow` (20 ms per word), `long` (words up to the limit of tokens), `panic` and
/// `panic early` (in `step` and `submit`), `lose` (the request is forgotten), `whole` (a step that lasts until
/// the client leaves), `hostile` (markup), `empty`. Anything else is
/// answered with who answers and what was asked.
#[derive(Default)]
pub(crate) struct Double {
    rows: BTreeMap<u64, Row>,
}

const ROOM: usize = 8;

pub(crate) const HOSTILE: &str = "<img src=x onerror=\"document.title='owned'\"> <script>document.title='owned'</script> \
                                  </script><svg onload=alert(1)> javascript:alert(1) &lt;b&gt; </p></section>";

/// The last message or the prompt.
fn asked(prompt: &Prompt) -> &str {
    match prompt {
        Prompt::Chat(messages) => messages.last().map_or("", |message| &message.content),
        Prompt::Text(text) => text,
    }
}

fn head(head: &HeadChoice) -> String {
    match head {
        HeadChoice::Base => "sft".into(),
        HeadChoice::Policy(k) => format!("policy {k}"),
        HeadChoice::WorstCase => "worst case".into(),
        HeadChoice::Mixture(weights) => {
            let weights: Vec<String> = weights.iter().map(|w| format!("{w:.2}")).collect();
            format!("mixture {}", weights.join("/"))
        }
    }
}

/// The whole answer, as words with the spaces before them.
fn words(request: &TextRequest) -> Vec<String> {
    let text = asked(&request.prompt);
    let most = request.sampling.max_new_tokens.unwrap_or(DEFAULT_TOKENS);
    let answer = match text {
        text if text.contains("hostile") => HOSTILE.into(),
        text if text.contains("long") => {
            (0..most + 1).map(|i| format!("word{i}")).collect::<Vec<_>>().join(" ")
        }
        text if text.contains("empty") => String::new(),
        text => format!("{} heard: {text} #{}", head(&request.head), request.sample),
    };
    let mut words: Vec<String> = answer.split_inclusive(' ').map(str::to_owned).collect();
    if request.sampling.temperature == Some(2.0) {
        words.insert(0, format!("[seed {}] ", request.sampling.seed));
    }
    words
}

impl TextEngine for Double {
    fn model(&self) -> ModelInfo {
        ModelInfo {
            policies: ["helpful", "harmless", "humor"].map(str::to_owned).to_vec(),
            has_worst_case: true,
            context: Some(CONTEXT),
        }
    }

    fn room(&self) -> usize {
        ROOM - self.rows.len()
    }

    fn submit(&mut self, id: u64, request: TextRequest) -> Result<Admitted, Refusal> {
        let text = asked(&request.prompt);
        assert!(!text.contains("panic early"), "asked to panic over {text}");
        let prompt_tokens = text.split_whitespace().count();
        let n_new = request.sampling.max_new_tokens.unwrap_or(DEFAULT_TOKENS);
        if prompt_tokens + n_new > CONTEXT {
            let message =
                format!("{prompt_tokens} and {n_new} tokens exceed the context of {CONTEXT}");
            return Err(Refusal {
                kind: RefusalKind::TooLong,
                message,
                param: Some("messages".into()),
            });
        }
        if request.sampling.min_p.is_some_and(|p| p > 0.0) {
            let message = "'min_p' is not supported".into();
            let kind = RefusalKind::Unsupported;
            return Err(Refusal { kind, message, param: Some("min_p".into()) });
        }
        let (words, scanner) = (words(&request), StopScanner::new(request.stop.clone()));
        self.rows.insert(id, Row { request, words, next: 0, scanner });
        Ok(Admitted { prompt_tokens })
    }

    fn step(&mut self, sink: &mut dyn EventSink) {
        let slow = self.rows.values().any(|row| asked(&row.request.prompt).contains("slow"));
        if slow {
            std::thread::sleep(Duration::from_millis(20));
        }
        if self.rows.values().any(|row| asked(&row.request.prompt).contains("lose")) {
            self.rows.clear();
        }
        let mut ended = vec![];
        let whole = |row: &Row| asked(&row.request.prompt).contains("whole");
        if let Some((&id, _)) = self.rows.iter().find(|(_, row)| whole(row)) {
            // A step as long as an answer.
            for _ in 0..1000 {
                std::thread::sleep(Duration::from_millis(5));
                if sink.is_cancelled(id) {
                    break;
                }
            }
            self.rows.remove(&id);
        }
        for (id, row) in &mut self.rows {
            let text = asked(&row.request.prompt);
            assert!(!text.contains("panic"), "asked to panic over {text}");
            let most = row.request.sampling.max_new_tokens.unwrap_or(DEFAULT_TOKENS);
            let is_cut = row.next == most;
            if let Some(word) = row.words.get(row.next).filter(|_| !is_cut) {
                row.next += 1;
                let piece = row.scanner.push(word);
                let tokens = row.request.log_probs.map(|n| token(word, n)).into_iter().collect();
                sink.event(*id, TextEvent::Piece { text: piece, tokens });
            }
            if is_cut || row.scanner.is_done() || row.next == row.words.len() {
                let text = row.scanner.finish();
                sink.event(*id, TextEvent::Piece { text, tokens: vec![] });
                let reason = if is_cut { EndReason::Length } else { EndReason::Stop };
                let cached_tokens = asked(&row.request.prompt).split_whitespace().count() / 2;
                let completion_tokens = row.next;
                sink.event(*id, TextEvent::End { reason, completion_tokens, cached_tokens });
                ended.push(*id);
            }
        }
        ended.iter().for_each(|id| drop(self.rows.remove(id)));
    }

    fn cancel(&mut self, id: u64) {
        self.rows.remove(&id);
    }

    fn is_idle(&self) -> bool {
        self.rows.is_empty()
    }

    fn reset(&mut self) {
        self.rows.clear();
    }

    fn stats(&self) -> EngineStats {
        EngineStats {
            cache_bytes: Some(self.rows.len() as u64 * 1024),
            cache_limit_bytes: Some(8192),
        }
    }
}

fn token(word: &str, n: usize) -> TokenLogProb {
    let token = |text: &str, log_prob| Token { text: text.into(), bytes: text.into(), log_prob };
    let others = (1..=n).map(|i| token(&format!("other{i}"), -(i as f32)));
    TokenLogProb { chosen: token(word, -0.5), top: others.collect() }
}

/// Scores by the number of letters, so that later samples win on `helpful`.
struct Letters;

impl TextScorer for Letters {
    fn names(&self) -> Vec<String> {
        vec!["helpful".into(), "harmless".into()]
    }

    fn score(&self, items: &[ScoreItem]) -> Result<Vec<Vec<f32>>, Refusal> {
        let one = |item: &ScoreItem| {
            assert!(!item.response.contains("scorer panic"), "asked to panic");
            if item.response.contains("cannot") {
                return Err(Refusal::internal("the rewards cannot score this"));
            }
            let sample = item.response.rsplit_once('#').and_then(|(_, n)| n.parse().ok());
            Ok(vec![sample.unwrap_or(-1.0), item.response.chars().count() as f32])
        };
        items.iter().map(one).collect()
    }
}

/// Scores on a pool of threads, as rewards that are models do.
pub(crate) struct OnPool(pub(crate) Arc<rayon::ThreadPool>);

impl TextScorer for OnPool {
    fn names(&self) -> Vec<String> {
        Letters.names()
    }

    fn score(&self, items: &[ScoreItem]) -> Result<Vec<Vec<f32>>, Refusal> {
        self.0.install(|| Letters.score(items))
    }
}

/// A front whose grid has two steps.
fn front() -> Front {
    let policies = ["helpful", "harmless", "humor"].map(str::to_owned).to_vec();
    let point = |label: &str, group, weights: Option<[f64; 3]>, means: [f64; 3]| Point {
        label: label.into(),
        group,
        weights: weights.map(Vec::from),
        means: means.into(),
        standard_errors: None,
        non_dominated: group != "sft",
    };
    Front {
        axes: policies.clone(),
        points: vec![
            point("SFT", "sft", None, [0.1, 0.2, 0.3]),
            point("helpful", "head", Some([1.0, 0.0, 0.0]), [1.0, 0.0, 0.0]),
            point("harmless", "head", Some([0.0, 1.0, 0.0]), [0.0, 1.0, 0.0]),
            point("humor", "head", Some([0.0, 0.0, 1.0]), [0.0, 0.0, 1.0]),
            point("mix 0.50/0.50/0.00", "mixture", Some([0.5, 0.5, 0.0]), [0.6, 0.6, 0.1]),
            point("mix 0.50/0.00/0.50", "mixture", Some([0.5, 0.0, 0.5]), [0.6, 0.1, 0.6]),
            point("mix 0.00/0.50/0.50", "mixture", Some([0.0, 0.5, 0.5]), [0.1, 0.6, 0.6]),
        ],
        policies,
        n_prompts: 10,
        steps: Some(2),
        warning: None,
    }
}

/// A server on a free port, which ends when this is dropped.
pub(crate) struct Served {
    pub(crate) address: SocketAddr,
    pub(crate) stop: Stop,
    thread: Option<JoinHandle<mopo_serve::Result<()>>>,
}

impl Served {
    /// With the double, rewards and a front.
    pub(crate) fn start(change: impl FnOnce(&mut ServeOptions)) -> Self {
        Self::start_with(change, || Box::new(Double::default()), true)
    }

    /// With another engine, which is made on its own thread.
    pub(crate) fn start_with(
        change: impl FnOnce(&mut ServeOptions),
        engine: impl FnOnce() -> Box<dyn TextEngine> + Send + 'static,
        with_extras: bool,
    ) -> Self {
        let mut options = ServeOptions { port: 0, name: "run".into(), ..ServeOptions::default() };
        change(&mut options);
        let (stop, ready) = (Stop::default(), std::sync::mpsc::channel());
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let extras = match with_extras {
                true => Extras {
                    scorer: Some(Arc::new(Letters)),
                    front: Some(FrontSource::fixed(front())),
                },
                false => Extras::default(),
            };
            let on_ready = |address| ready.0.send(address).expect("the test waits for it");
            serve(&mut *engine(), extras, options, &stopped, false, on_ready)
        });
        let address = ready.1.recv().expect("the server starts");
        Self { address, stop, thread: Some(thread) }
    }

    /// Stops it and waits for its end.
    pub(crate) fn end(mut self) -> mopo_serve::Result<()> {
        self.stop.stop();
        self.thread.take().expect("ended once").join().expect("it does not panic")
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
