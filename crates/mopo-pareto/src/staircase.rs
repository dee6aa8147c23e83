//! The two-dimensional front that sweeps maintain.

/// Steps that do not cover each other: the first coordinate ascends and the second descends. Larger
/// is better. An array rather than a tree: a front of n points in space has about √n steps, and
/// moving them is faster than following pointers.
#[derive(Debug, Default)]
pub(crate) struct Staircase {
    steps: Vec<(f64, f64)>,
}

impl Staircase {
    /// Whether a step is at least as good as (x, y) in both coordinates.
    pub(crate) fn covers(&self, x: f64, y: f64) -> bool {
        let at = self.steps.partition_point(|s| s.0 < x);
        // Among the steps that reach as far as x, the first is the highest.
        self.steps.get(at).is_some_and(|s| s.1 >= y)
    }

    /// Inserts (x, y); false if it is covered.
    pub(crate) fn insert(&mut self, x: f64, y: f64) -> bool {
        let at = self.steps.partition_point(|s| s.0 < x);
        if self.steps.get(at).is_some_and(|s| s.1 >= y) {
            return false;
        }
        let mut first_hidden = at;
        while first_hidden > 0 && self.steps[first_hidden - 1].1 <= y {
            first_hidden -= 1;
        }
        let last_hidden = at + usize::from(self.steps.get(at).is_some_and(|s| s.0 == x));
        replace(&mut self.steps, first_hidden, last_hidden, (x, y));
        true
    }

    /// Inserts (x, y), unless it is covered, and returns the area that it adds above the origin.
    /// For positive coordinates.
    pub(crate) fn add(&mut self, x: f64, y: f64) -> f64 {
        let steps = &mut self.steps;
        let at = steps.partition_point(|s| s.0 < x);
        let mut covered = steps.get(at).map_or(0.0, |s| s.1);
        if at < steps.len() && covered >= y {
            return 0.0;
        }
        // Earlier steps that are at most as high as y are hidden by the new one.
        let mut first_hidden = at;
        let mut right = x;
        let mut gained = 0.0;
        while first_hidden > 0 && steps[first_hidden - 1].1 <= y {
            first_hidden -= 1;
            let step = steps[first_hidden];
            gained += (right - step.0) * (y - covered);
            (right, covered) = step;
        }
        let left = if first_hidden == 0 { 0.0 } else { steps[first_hidden - 1].0 };
        gained += (right - left) * (y - covered);
        let last_hidden = at + usize::from(steps.get(at).is_some_and(|s| s.0 == x));
        replace(steps, first_hidden, last_hidden, (x, y));
        gained
    }
}

/// Replaces `steps[from..to]` by one step.
pub(crate) fn replace<T: Copy>(steps: &mut Vec<T>, from: usize, to: usize, step: T) {
    if from == to {
        steps.insert(from, step);
    } else {
        steps[from] = step;
        if to - from > 1 {
            steps.drain(from + 1..to);
        }
    }
}
