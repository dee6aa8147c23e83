//! Responses side by side, prompt by prompt.

use maud::{Markup, html};

use crate::evaluation::shown_label;
use crate::plot::short;
use crate::{Clusters, Evaluation, PolicyGroup, PolicySamples};

/// Maximum size of all texts together, so that the page opens on a phone.
const MAX_TEXT: usize = 1_000_000;

/// Up to `n_examples` prompts with every policy's response; empty for none.
pub(super) fn section(evaluation: &Evaluation, n_examples: usize) -> Markup {
    let shown = chosen(evaluation, n_examples);
    if shown.is_empty() {
        return html! {};
    }
    html! {
        p.muted {
            (shown.len()) " of " (evaluation.prompts.len()) " prompts, taken from the clusters in turn; \
             none was selected by its scores."
        }
        (controls(evaluation))
        @for i in shown { (example(evaluation, i)) }
        p { button type="button" id="more" hidden="" { "Show more" } }
    }
}

/// Controls for the script; hidden without one.
fn controls(evaluation: &Evaluation) -> Markup {
    html! {
        form.controls hidden="" {
            label {
                "Find in prompts and responses "
                input type="search" id="find" autocomplete="off";
            }
            @if evaluation.clusters.n_clusters() > 1 {
                label {
                    "Prompts about "
                    select id="cluster" {
                        option value="" { "anything" }
                        @for (c, label) in evaluation.clusters.labels.iter().enumerate() {
                            option value=(c) { (label) }
                        }
                    }
                }
            }
            fieldset {
                legend { "Side by side" }
                @for (p, samples) in evaluation.policies.iter().enumerate() {
                    @let checked = (samples.group != PolicyGroup::Mixture).then_some("checked");
                    label {
                        input type="checkbox" value=(p) checked=[checked];
                        " " (shown_label(samples.group, &samples.label))
                    }
                }
            }
            p id="count" class="muted" role="status" {}
        }
    }
}

fn example(evaluation: &Evaluation, i: usize) -> Markup {
    let prompt = evaluation.prompts[i].trim();
    // The turn to be written, whose text is shown below.
    let prompt = prompt.strip_suffix("Assistant:").unwrap_or(prompt).trim_end();
    let of = |mixtures: bool| -> Vec<(usize, &PolicySamples)> {
        let all = evaluation.policies.iter().enumerate();
        all.filter(|(_, p)| (p.group == PolicyGroup::Mixture) == mixtures).collect()
    };
    let mixtures = of(true);
    html! {
        article.example data-cluster=(evaluation.clusters.assignments[i]) {
            p.text.prompt { (prompt) }
            div.answers { @for (p, samples) in of(false) { (answer(evaluation, p, samples, i)) } }
            @if !mixtures.is_empty() {
                details.more {
                    summary { "Mixtures (" (mixtures.len()) ")" }
                    div.answers {
                        @for (p, samples) in mixtures { (answer(evaluation, p, samples, i)) }
                    }
                }
            }
        }
    }
}

fn answer(evaluation: &Evaluation, p: usize, samples: &PolicySamples, i: usize) -> Markup {
    let scores: Vec<String> = evaluation
        .objectives
        .iter()
        .zip(&samples.scores[i])
        .map(|(name, &score)| format!("{name} {}", short(score.into())))
        .collect();
    let response = samples.responses[i].trim();
    html! {
        div.answer data-policy=(p) {
            h3 { (shown_label(samples.group, &samples.label)) }
            p.scores { (scores.join(" · ")) }
            p.text { @if response.is_empty() { i { "(empty)" } } @else { (response) } }
        }
    }
}

/// The first `n` in this order, as far as their texts fit.
fn chosen(evaluation: &Evaluation, n: usize) -> Vec<usize> {
    let mut room = MAX_TEXT;
    let fits = |i: &usize| {
        let responses: usize = evaluation.policies.iter().map(|p| p.responses[*i].len()).sum();
        let needed = evaluation.prompts[*i].len() + responses;
        let left = room.checked_sub(needed);
        room = left.unwrap_or(0);
        left.is_some()
    };
    in_turn(&evaluation.clusters).into_iter().take(n).take_while(fits).collect()
}

/// All prompts: the first of each cluster, then the second of each, and so on.
fn in_turn(clusters: &Clusters) -> Vec<usize> {
    let mut seen = vec![0_usize; clusters.n_clusters()];
    let mut order: Vec<(usize, usize, usize)> = Vec::with_capacity(clusters.assignments.len());
    for (i, &c) in clusters.assignments.iter().enumerate() {
        order.push((seen[c], c, i));
        seen[c] += 1;
    }
    order.sort_unstable();
    order.into_iter().map(|(_, _, i)| i).collect()
}
