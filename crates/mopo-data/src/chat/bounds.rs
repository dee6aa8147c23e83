//! The size of values, counted as whoever prints or compares them meets it: what is contained twice
//! counts twice.

use minijinja::value::{Value, ValueKind};
use minijinja::{Error, ErrorKind, State};

/// Levels of lists and dicts inside each other.
const MOST_LEVELS: usize = 32;
/// Values inside a value, and bytes of text in it, beside those of the conversation.
const MOST_VALUES: usize = 2000;
const MOST_BYTES: usize = 1 << 16;

/// Names of variables for this crate: with a space, no template can read or set them.
const VALUES: &str = "most values";
const BYTES: &str = "most bytes";

/// What a value may be like in a template that renders a conversation.
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    values: usize,
    bytes: usize,
}

impl Bounds {
    /// Those for a conversation with so many messages and so much text.
    pub(super) fn of_conversation(n_messages: usize, n_bytes: usize) -> Self {
        // A message is a dict of two names and two texts; a template may add to it, or list it
        // twice.
        Self { values: MOST_VALUES + 20 * n_messages, bytes: MOST_BYTES + 4 * n_bytes }
    }

    /// As variables of the context, where [`check`] finds them.
    pub(super) fn variables(self) -> [(String, Value); 2] {
        [(VALUES.into(), Value::from(self.values)), (BYTES.into(), Value::from(self.bytes))]
    }

    fn of(state: &State) -> Self {
        let number = |name| state.lookup(name).and_then(|value| value.as_usize());
        Self {
            values: number(VALUES).unwrap_or(MOST_VALUES),
            bytes: number(BYTES).unwrap_or(MOST_BYTES),
        }
    }
}

/// Refuses a value that is too large, too deep, or, in an attribute, contains a namespace.
pub(super) fn check(state: &State, value: &Value, is_attribute: bool) -> Result<(), Error> {
    let too = |what| Err(Error::new(ErrorKind::InvalidOperation, format!("a value is too {what}")));
    let Bounds { values, bytes } = Bounds::of(state);
    let (mut n_values, mut n_bytes) = (0, 0);
    let mut open = vec![(value.clone(), 0)];
    while let Some((value, level)) = open.pop() {
        n_values += 1;
        n_bytes += value.as_str().map_or(0, str::len);
        let is_pairs = value.kind() == ValueKind::Map;
        if is_attribute && is_pairs && is_namespace(&value) {
            let why = "an attribute of a namespace cannot contain a namespace";
            return Err(Error::new(ErrorKind::InvalidOperation, why));
        }
        let object = value
            .as_object()
            .filter(|_| is_pairs || matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable));
        if let Some(object) = object {
            if level == MOST_LEVELS {
                return too("deep");
            }
            // One more than is allowed is enough to know.
            let most = (values + 1).saturating_sub(n_values + open.len());
            if is_pairs {
                let pairs = object.try_iter_pairs().into_iter().flatten();
                open.extend(
                    pairs
                        .take(most)
                        .flat_map(|(key, value)| [(key, level + 1), (value, level + 1)]),
                );
            } else {
                let items = object.try_iter().into_iter().flatten();
                open.extend(items.take(most).map(|item| (item, level + 1)));
            }
        }
        if n_values + open.len() > values || n_bytes > bytes {
            return too("large");
        }
    }
    state.consume_fuel(n_values as u64 / 8)
}

/// Whether it is what `namespace()` makes.
pub(super) fn is_namespace(value: &Value) -> bool {
    value.as_object().is_some_and(|object| object.type_name().ends_with("Namespace"))
}
