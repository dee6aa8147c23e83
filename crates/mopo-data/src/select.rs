//! Some of a set's objectives, for data that has more of them than are wanted.

use mopo_core::Objectives;

use crate::{PreparedSet, Result, Scores};

impl PreparedSet {
    /// The set with these objectives only, in this order, and how many pairs were left out because
    /// none of them labels the pair.
    ///
    /// # Errors
    /// [`Error::Core`](crate::Error::Core) for a name that the set has not or that stands there twice,
    /// or no name at all; [`Error::Empty`](crate::Error::Empty) if no pair is left.
    pub fn select(mut self, names: &[String]) -> Result<(Self, usize)> {
        let chosen = Objectives::new(names.iter().cloned())?;
        let at = names
            .iter()
            .map(|name| self.header.objectives.index_of(name))
            .collect::<std::result::Result<Vec<_>, _>>()?;
        let n_before = self.records.len();
        self.records.retain_mut(|record| {
            record.indicators = at.iter().map(|&k| record.indicators[k]).collect();
            if let Some(Scores { first, second }) = &mut record.scores {
                for scores in [first, second] {
                    *scores = at.iter().map(|&k| scores[k]).collect();
                }
            }
            record.indicators.iter().any(Option::is_some)
        });
        let n_left_out = n_before - self.records.len();
        if self.records.is_empty() {
            return Err(crate::Error::Empty {
                what: format!("the set with the objectives {}", names.join(", ")),
                remedy: "choose objectives that label some pair".into(),
            });
        }
        let header = self.header;
        let set = Self::new(chosen, header.split, header.sources, header.notes, self.records)?;
        Ok((set, n_left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PreferenceRecord;

    fn set() -> PreparedSet {
        let record = |i: usize, indicators: [Option<f32>; 3]| PreferenceRecord {
            id: i.to_string(),
            source: "made".into(),
            prompt: "p".into(),
            first: "a".into(),
            second: "b".into(),
            indicators: indicators.to_vec(),
            scores: indicators
                .iter()
                .all(Option::is_some)
                .then(|| Scores { first: vec![1.0, 2.0, 3.0], second: vec![4.0, 5.0, 6.0] }),
        };
        let records =
            vec![record(0, [Some(1.0), Some(0.0), Some(0.5)]), record(1, [None, Some(0.25), None])];
        let objectives = Objectives::new(["x", "y", "z"]).unwrap();
        PreparedSet::new(objectives, None, vec![], vec!["note".into()], records).unwrap()
    }

    #[test]
    fn indicators_and_scores_follow_their_objectives() {
        let (found, n_left_out) = set().select(&["z".into(), "x".into()]).unwrap();
        assert_eq!(n_left_out, 1);
        assert_eq!(found.header.objectives.names(), ["z", "x"]);
        assert_eq!((found.header.records, found.header.notes.len()), (1, 1));
        assert_eq!(found.records[0].indicators, [Some(0.5), Some(1.0)]);
        let scores = found.records[0].scores.as_ref().unwrap();
        assert_eq!((&scores.first[..], &scores.second[..]), (&[3.0, 1.0][..], &[6.0, 4.0][..]));
        let (found, n_left_out) = set().select(&["y".into()]).unwrap();
        assert_eq!((found.records.len(), n_left_out), (2, 0));
    }

    #[test]
    fn unknown_names_and_empty_choices_are_refused() {
        let error = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).into()).collect();
            set().select(&names).unwrap_err().to_string()
        };
        assert!(error(&["humor"]).contains("x, y, z"));
        assert!(error(&["x", "x"]).contains('x'));
        error(&[]);
        let mut only_y = set();
        only_y.records.remove(0);
        let error = only_y.select(&["x".into()]).unwrap_err().to_string();
        assert!(error.contains("objectives x") && error.contains("label some pair"), "{error}");
    }
}
