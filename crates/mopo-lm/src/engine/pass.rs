//! Forward passes of a step: rows in the same lane run together, and each output layer is applied to the rows that need it.

use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor};
use mopo_ops::FusedBackend;

use super::Engine;
use crate::Decoder;
use crate::layers::{NewTokens, Sequence};

/// New tokens of a row.
#[derive(Debug)]
pub(super) struct Work {
    /// Its index among those that run.
    pub(super) row: usize,
    pub(super) tokens: Vec<u32>,
    /// Whether the logits after them are needed.
    pub(super) wants_next: bool,
}

/// A row's place in a lane.
#[derive(Clone, Copy)]
struct Place {
    work: usize,
    row: usize,
    lane: usize,
}

impl<B: FusedBackend, M: Decoder<B>> Engine<'_, B, M> {
    /// Adds the tokens to the cache in all lanes of their rows, and leaves the next token's logits in the rows that want
    /// them. `are_prompts`: whether the tokens are parts of prompts; if not, there is one for each row.
    pub(super) fn run(&mut self, work: &[Work], are_prompts: bool) {
        let extent = self.blocks.extent();
        if extent > self.cache.n_blocks() {
            // Twice as many, so that copying what is there is rare.
            self.cache.grow(extent.max(2 * self.cache.n_blocks()).min(self.blocks.total()));
        }
        let mut groups: Vec<(_, Vec<Place>)> = vec![];
        for (i, Work { row, wants_next, .. }) in work.iter().enumerate() {
            let of = &mut self.running[*row];
            if *wants_next {
                of.state.logits = vec![vec![]; of.parts.len()];
            }
            for lane in 0..of.lanes.len() {
                let (key, place) = (of.pass_key(lane), Place { work: i, row: *row, lane });
                match groups.iter_mut().find(|(known, _)| *known == key) {
                    Some((_, places)) => places.push(place),
                    None => groups.push((key, vec![place])),
                }
            }
        }
        let few = B::FEW_LINES.unwrap_or(usize::MAX);
        for (_, places) in groups {
            let size = if are_prompts { places.len() } else { few };
            for places in places.chunks(size) {
                self.pass(work, places, are_prompts);
            }
        }
    }

    /// One pass over the model, for rows in the same lane.
    fn pass(&mut self, work: &[Work], places: &[Place], are_prompts: bool) {
        // Taken out, since the rows also say which adapter to use.
        let mut sequences: Vec<Sequence> = places
            .iter()
            .map(|place| std::mem::take(&mut self.running[place.row].lanes[place.lane].sequence))
            .collect();
        let parts = places.iter().zip(&mut sequences);
        let parts = parts.map(|(place, sequence)| (&work[place.work].tokens[..], sequence));
        let new = match are_prompts {
            true => NewTokens::of_prompts(parts, &self.device),
            false => NewTokens::of_answers(parts, &self.device),
        };
        let first = &self.running[places[0].row];
        let adapter = first.adapter(places[0].lane, self.policies);
        let states = self.base.next_states(&new, adapter, &mut self.cache);
        for (place, sequence) in places.iter().zip(sequences) {
            self.running[place.row].lanes[place.lane].sequence = sequence;
        }

        // (head, state, row, part)
        let mut needed: Vec<(Option<usize>, Vec<[usize; 3]>)> = vec![];
        for (i, place) in places.iter().enumerate().filter(|(_, p)| work[p.work].wants_next) {
            let parts = self.running[place.row].parts.iter().enumerate();
            for (index, part) in parts.filter(|(_, part)| part.lane == place.lane) {
                let of = [i, place.row, index];
                match needed.iter_mut().find(|(head, _)| *head == part.head) {
                    Some((_, all)) => all.push(of),
                    None => needed.push((part.head, vec![of])),
                }
            }
        }
        let few = B::FEW_LINES.unwrap_or(usize::MAX);
        for (head, all) in needed {
            for some in all.chunks(few) {
                let hidden = match some.len() == places.len() {
                    true => states.clone(),
                    false => {
                        let ids: Vec<i32> = some.iter().map(|[i, ..]| *i as i32).collect();
                        let ids = Tensor::<B, 1, Int>::from_data(ids.as_slice(), &self.device);
                        states.clone().select(0, ids)
                    }
                };
                let row = &self.running[some[0][1]];
                let logits = match row.head(head, self.policies) {
                    Some(layer) => layer.logits(hidden),
                    None => self.base.lm_head().logits(hidden),
                };
                let vocab = logits.dims()[1];
                let logits = host(logits);
                for ([_, row, part], logits) in some.iter().zip(logits.chunks_exact(vocab)) {
                    self.running[*row].state.logits[*part] = logits.to_vec();
                }
            }
        }
    }
}

/// All values, row by row.
fn host<B: Backend>(table: Tensor<B, 2>) -> Vec<f32> {
    table.into_data().convert::<f32>().to_vec::<f32>().expect("just converted")
}
