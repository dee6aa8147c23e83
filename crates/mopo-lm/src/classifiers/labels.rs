//! The names of a classifier's labels, and checks that all classifiers share.

use serde_json::{Map, Value, json};

use crate::Result;
use crate::hub_config::HubConfig;
use crate::weights::Source;

/// Labels get names before their number can be compared with a tensor.
const MAX_LABELS: usize = 1 << 16;

/// Names as transformers gives them where there are none.
pub(super) fn unnamed_labels(n: usize) -> Vec<String> {
    (0..n).map(|i| format!("LABEL_{i}")).collect()
}

/// The names of the labels in the order of the logits: `id2label`, in any order in the file, or else
/// `num_labels` default names (or the architecture's default number).
pub(super) fn labels(hub: &HubConfig, default: usize) -> Result<Vec<String>> {
    let Some(value) = hub.value("id2label") else {
        return Ok(unnamed_labels(hub.count("num_labels", Some(default), MAX_LABELS)?));
    };
    let expected = "it must map the ids 0, 1, … to names, each once";
    let refused = || hub.invalid("id2label", value.to_string(), expected);
    let map = value.as_object().filter(|map| !map.is_empty()).ok_or_else(refused)?;
    let mut labels = vec![None; map.len()];
    for (id, name) in map {
        let place = id.parse().ok().and_then(|id: usize| labels.get_mut(id));
        *place.ok_or_else(refused)? = Some(name.as_str().ok_or_else(refused)?.to_owned());
    }
    labels.into_iter().collect::<Option<_>>().ok_or_else(refused)
}

/// The keys for labels that transformers reads.
pub(super) fn label_keys(labels: &[String]) -> [(&'static str, Value); 2] {
    let ids: Map<String, Value> =
        labels.iter().enumerate().map(|(i, name)| (i.to_string(), json!(name))).collect();
    let names: Map<String, Value> =
        labels.iter().enumerate().map(|(i, name)| (name.clone(), json!(i))).collect();
    [("id2label", ids.into()), ("label2id", names.into())]
}

/// Refuses more layers than a model's files can have, since each has tensors.
pub(super) fn check_layers(
    files: &Source,
    hub: &HubConfig,
    key: &'static str,
    n_layers: usize,
) -> Result<()> {
    let n_tensors = files.n_tensors();
    match n_layers <= n_tensors {
        true => Ok(()),
        false => {
            let expected = format!("the model's files have {n_tensors} tensors in all");
            Err(hub.invalid(key, n_layers.to_string(), &expected))
        }
    }
}
