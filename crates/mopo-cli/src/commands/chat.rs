//! `mopo chat`: a conversation on a terminal, or with lines from a pipe.

use std::io::{self, BufRead, IsTerminal};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};
use mopo_data::Message;
use mopo_lm::Decoding;
use mopo_ops::FusedBackend;
use mopo_train::{Sampler, SamplingOverrides, Session};

use super::generate;
use crate::args::{ChatArgs, DecodingArgs, Weights};
use crate::device::{self, Job, dispatch};
use crate::output::{errln, flush, out, outln, write_err};

const COMMANDS: &str = "/reset, /system TEXT, /policy NAME, /weights W, /help, /exit";

pub(crate) fn run(args: ChatArgs) -> Result<()> {
    device::check(args.device)?;
    device::set_matmul_precision(args.device, args.model.precision.matmul, device::PRECISION_FLAG)?;
    dispatch(args.device, Chat(args))
}

struct Chat(ChatArgs);

impl Job for Chat {
    type Output = ();

    fn run<B: FusedBackend>(self, device: B::Device) -> Result<()> {
        let args = self.0;
        let sampler = generate::open::<B>(&args.model, &device)?;
        let mut chat = Conversation {
            decoding: generate::decoding(&sampler, &args.decoding)?,
            session: sampler.session(sampler.limits(1))?,
            sampler: &sampler,
            flags: args.decoding,
            overrides: args.sampling.overrides(),
            system: args.system,
            messages: vec![],
            answering: Arc::default(),
        };
        let is_terminal = io::stdin().is_terminal();
        if is_terminal {
            errln!("{COMMANDS}; Ctrl-C ends an answer, Ctrl-D the chat");
            interrupts(&chat.answering).context("cannot receive Ctrl-C")?;
        }
        let mut lines = io::stdin().lock().lines();
        loop {
            if is_terminal {
                write_err(format_args!("> "));
            }
            let Some(line) = lines.next() else { return Ok(()) };
            let line = line.context("cannot read standard input")?;
            match chat.take(line.trim()) {
                Ok(ControlFlow::Continue(())) => {}
                Ok(ControlFlow::Break(())) => return Ok(()),
                // A person can try again; a script would go on with another conversation than it has.
                Err(e) if is_terminal => errln!("error: {e:#}"),
                Err(e) => return Err(e),
            }
        }
    }
}

/// A conversation and how it is answered.
struct Conversation<'a, B: FusedBackend> {
    sampler: &'a Sampler<B>,
    /// What it read of the conversation stays for the next answer.
    session: Session<'a, B>,
    decoding: Decoding,
    flags: DecodingArgs,
    overrides: SamplingOverrides,
    system: Option<String>,
    /// Without the system message.
    messages: Vec<Message>,
    /// Set while an answer is made; Ctrl-C clears it.
    answering: Arc<AtomicBool>,
}

/// Makes Ctrl-C end the answer that is made, or the program if there is none.
fn interrupts(answering: &Arc<AtomicBool>) -> Result<(), ctrlc::Error> {
    let answering = answering.clone();
    ctrlc::set_handler(move || {
        if !answering.swap(false, Ordering::Relaxed) {
            // The shell's code for this signal.
            std::process::exit(130);
        }
    })
}

impl<B: FusedBackend> Conversation<'_, B> {
    /// Takes a line: a command, a message, or nothing. A [`Break`](ControlFlow::Break) ends the chat.
    fn take(&mut self, line: &str) -> Result<ControlFlow<()>> {
        let Some(command) = line.strip_prefix('/') else {
            if !line.is_empty() {
                self.say(line)?;
            }
            return Ok(ControlFlow::Continue(()));
        };
        let (name, value) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        match (name, value.trim()) {
            ("exit" | "quit", "") => return Ok(ControlFlow::Break(())),
            ("reset", "") => self.messages.clear(),
            ("help", "") => errln!("{COMMANDS}"),
            ("system", text) => {
                self.system = Some(text.to_owned()).filter(|text| !text.is_empty());
                self.messages.clear();
            }
            ("policy", policy) if !policy.is_empty() => {
                self.choose(Some(policy.to_owned()), None)?;
            }
            ("weights", weights) if !weights.is_empty() => {
                let weights = weights.parse::<Weights>().map_err(anyhow::Error::msg)?;
                self.choose(None, Some(weights))?;
            }
            _ => bail!("unknown command `{line}`; there are {COMMANDS}"),
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Answers with another policy or mixture from now on.
    fn choose(&mut self, policy: Option<String>, weights: Option<Weights>) -> Result<()> {
        let flags = DecodingArgs { policy, weights, divergence: self.flags.divergence };
        let decoding = generate::decoding(self.sampler, &flags)?;
        decoding.check(self.sampler.policies().len())?;
        self.decoding = decoding;
        Ok(())
    }

    /// Answers a message and keeps both, or neither if there is no answer.
    fn say(&mut self, text: &str) -> Result<()> {
        let message = |role: &str, text: &str| Message { role: role.into(), content: text.into() };
        let system = self.system.iter().map(|text| message("system", text));
        let asked = message("user", text);
        let all: Vec<Message> =
            system.chain(self.messages.iter().cloned()).chain([asked.clone()]).collect();
        let answering = self.answering.clone();
        answering.store(true, Ordering::Relaxed);
        let show = &mut |piece: &str| {
            out!("{piece}");
            flush();
            match answering.load(Ordering::Relaxed) {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        };
        let reply = self.session.reply(&self.decoding, &all, &self.overrides, show);
        let is_interrupted = !self.answering.swap(false, Ordering::Relaxed);
        let reply = reply.map_err(|error| match error {
            e @ mopo_train::Error::ConversationTooLong { .. } => {
                anyhow::anyhow!("{e} (/reset, --max-new-tokens)")
            }
            e => e.into(),
        })?;
        outln!("");
        if is_interrupted {
            errln!("[interrupted]");
        }
        if reply.is_cut {
            errln!("[cut at the maximum number of new tokens; --max-new-tokens sets it]");
        }
        match reply.text.is_empty() {
            // Templates do not take an empty message.
            true => errln!("[an empty answer; the message is forgotten]"),
            false => self.messages.extend([asked, message("assistant", &reply.text)]),
        }
        Ok(())
    }
}
