//! Selects some of a set's objectives.

use mopo_core::Objectives;

use crate::{Error, PreferenceRecord, Result, Scores};

/// The selected objectives of a set, for records that come one by one.
#[derive(Debug)]
pub struct Selection {
    objectives: Objectives,
    /// Indices of the selected objectives among all.
    at: Vec<usize>,
    n_left_out: usize,
    any: bool,
}

impl Selection {
    /// The objectives `names` of `all`, in this order.
    ///
    /// # Errors
    /// [`Error::Core`] for an unknown or duplicate name, or no name at all.
    pub fn new(all: &Objectives, names: &[String]) -> Result<Self> {
        let objectives = Objectives::new(names.iter().cloned())?;
        let at = names
            .iter()
            .map(|name| all.index_of(name))
            .collect::<std::result::Result<Vec<_>, _>>()?;
        Ok(Self { objectives, at, n_left_out: 0, any: false })
    }

    /// The selected objectives.
    pub fn objectives(&self) -> &Objectives {
        &self.objectives
    }

    /// The record with the selected objectives; `None`, and counted, if it has no label for any of
    /// them.
    pub fn apply(&mut self, mut record: PreferenceRecord) -> Option<PreferenceRecord> {
        record.indicators = self.at.iter().map(|&k| record.indicators[k]).collect();
        if let Some(Scores { first, second }) = &mut record.scores {
            for scores in [first, second] {
                *scores = self.at.iter().map(|&k| scores[k]).collect();
            }
        }
        let labelled = record.indicators.iter().any(Option::is_some);
        self.any |= labelled;
        self.n_left_out += usize::from(!labelled);
        labelled.then_some(record)
    }

    /// Number of skipped records.
    ///
    /// # Errors
    /// [`Error::Empty`] if no record is left.
    pub fn finish(self) -> Result<usize> {
        if self.any {
            return Ok(self.n_left_out);
        }
        Err(Error::Empty {
            what: format!("the set with the objectives {}", self.objectives.names().join(", ")),
            remedy: "choose objectives that label some pair".into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(i: usize, indicators: [Option<f32>; 3]) -> PreferenceRecord {
        PreferenceRecord {
            id: i.to_string(),
            source: "made".into(),
            prompt: "p".into(),
            messages: None,
            first: "a".into(),
            second: "b".into(),
            indicators: indicators.to_vec(),
            scores: indicators
                .iter()
                .all(Option::is_some)
                .then(|| Scores { first: vec![1.0, 2.0, 3.0], second: vec![4.0, 5.0, 6.0] }),
        }
    }

    fn records() -> [PreferenceRecord; 2] {
        [record(0, [Some(1.0), Some(0.0), Some(0.5)]), record(1, [None, Some(0.25), None])]
    }

    fn select(
        names: &[&str],
        records: &[PreferenceRecord],
    ) -> Result<(Vec<PreferenceRecord>, usize)> {
        let all = Objectives::new(["x", "y", "z"]).unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).into()).collect();
        let mut selection = Selection::new(&all, &names)?;
        assert_eq!(selection.objectives().names(), names);
        let found = records.iter().cloned().filter_map(|record| selection.apply(record)).collect();
        Ok((found, selection.finish()?))
    }

    #[test]
    fn indicators_and_scores_follow_their_objectives() {
        let (found, n_left_out) = select(&["z", "x"], &records()).unwrap();
        assert_eq!((found.len(), n_left_out), (1, 1));
        assert_eq!(found[0].indicators, [Some(0.5), Some(1.0)]);
        let scores = found[0].scores.as_ref().unwrap();
        assert_eq!((&scores.first[..], &scores.second[..]), (&[3.0, 1.0][..], &[6.0, 4.0][..]));
        let (found, n_left_out) = select(&["y"], &records()).unwrap();
        assert_eq!((found.len(), n_left_out), (2, 0));
    }

    #[test]
    fn unknown_names_and_empty_choices_are_refused() {
        let error = |names: &[&str]| select(names, &records()).unwrap_err().to_string();
        assert!(error(&["humor"]).contains("x, y, z"));
        assert!(error(&["x", "x"]).contains('x'));
        error(&[]);
        let error = select(&["x"], &records()[1..]).unwrap_err().to_string();
        assert!(error.contains("objectives x") && error.contains("label some pair"), "{error}");
    }
}
