//! Responses side by side, prompt by prompt.

use std::fmt::Write;

use crate::plot::{escape, short};
use crate::{Clusters, Evaluation, PolicyGroup, PolicySamples};

/// Bytes of all texts together, so that the page opens on a phone.
const MAX_TEXT: usize = 1_000_000;

/// Up to `n_examples` prompts with every policy's response; empty for none.
pub(super) fn section(evaluation: &Evaluation, n_examples: usize) -> String {
    let shown = chosen(evaluation, n_examples);
    if shown.is_empty() {
        return String::new();
    }
    let mut out = String::new();
    let _ = writeln!(
        out,
        "<p class=\"muted\">{} of {} prompts, taken from the clusters in turn; none was selected by \
         its scores.</p>",
        shown.len(),
        evaluation.prompts.len()
    );
    controls(&mut out, evaluation);
    for i in shown {
        example(&mut out, evaluation, i);
    }
    out.push_str("<p><button type=\"button\" id=\"more\" hidden=\"\">Show more</button></p>\n");
    out
}

/// What a script makes use of: hidden without one.
fn controls(out: &mut String, evaluation: &Evaluation) {
    out.push_str(
        "<form class=\"controls\" hidden=\"\">\n<label>Find in prompts and responses \
         <input type=\"search\" id=\"find\" autocomplete=\"off\"/></label>\n",
    );
    if evaluation.clusters.n_clusters() > 1 {
        out.push_str(
            "<label>Prompts about <select id=\"cluster\"><option value=\"\">anything</option>",
        );
        for (c, label) in evaluation.clusters.labels.iter().enumerate() {
            let _ = write!(out, "<option value=\"{c}\">{}</option>", escape(label));
        }
        out.push_str("</select></label>\n");
    }
    out.push_str("<fieldset><legend>Side by side</legend>\n");
    for (p, samples) in evaluation.policies.iter().enumerate() {
        let checked =
            if samples.group == PolicyGroup::Mixture { "" } else { " checked=\"checked\"" };
        let _ = writeln!(
            out,
            "<label><input type=\"checkbox\" value=\"{p}\"{checked}/> {}</label>",
            escape(&samples.label)
        );
    }
    out.push_str("</fieldset>\n<p id=\"count\" class=\"muted\" role=\"status\"></p>\n</form>\n");
}

fn example(out: &mut String, evaluation: &Evaluation, i: usize) {
    let prompt = evaluation.prompts[i].trim();
    // The turn that is still to be written: its text stands below.
    let prompt = prompt.strip_suffix("Assistant:").unwrap_or(prompt).trim_end();
    let _ = writeln!(
        out,
        "<article class=\"example\" data-cluster=\"{}\"><p class=\"text prompt\">{}</p>\n\
         <div class=\"answers\">",
        evaluation.clusters.assignments[i],
        escape(prompt)
    );
    let is_mixture = |p: &&(usize, &PolicySamples)| p.1.group == PolicyGroup::Mixture;
    let all: Vec<(usize, &PolicySamples)> = evaluation.policies.iter().enumerate().collect();
    for (p, samples) in all.iter().filter(|p| !is_mixture(p)) {
        answer(out, evaluation, *p, samples, i);
    }
    out.push_str("</div>\n");
    let mixtures: Vec<_> = all.iter().filter(is_mixture).collect();
    if !mixtures.is_empty() {
        let _ = writeln!(
            out,
            "<details class=\"more\"><summary>Mixtures ({})</summary><div class=\"answers\">",
            mixtures.len()
        );
        for (p, samples) in mixtures {
            answer(out, evaluation, *p, samples, i);
        }
        out.push_str("</div></details>\n");
    }
    out.push_str("</article>\n");
}

fn answer(out: &mut String, evaluation: &Evaluation, p: usize, samples: &PolicySamples, i: usize) {
    let scores: Vec<String> = evaluation
        .objectives
        .iter()
        .zip(&samples.scores[i])
        .map(|(name, &score)| format!("{} {}", escape(name), short(score.into())))
        .collect();
    let response = samples.responses[i].trim();
    let text = if response.is_empty() { "<i>(empty)</i>".to_owned() } else { escape(response) };
    let _ = writeln!(
        out,
        "<div class=\"answer\" data-policy=\"{p}\"><h3>{}</h3><p class=\"scores\">{}</p>\
         <p class=\"text\">{text}</p></div>",
        escape(&samples.label),
        scores.join(" · ")
    );
}

/// The first `n` in turn, as far as their texts have room.
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
