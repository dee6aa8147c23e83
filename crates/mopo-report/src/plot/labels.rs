//! Placement of the names of points, so that none covers a marker or another name.

use super::text;

/// A rectangle: left, top, right, bottom.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rect {
    pub(super) left: f64,
    pub(super) top: f64,
    pub(super) right: f64,
    pub(super) bottom: f64,
}

impl Rect {
    pub(super) fn around(x: f64, y: f64, r: f64) -> Self {
        Self { left: x - r, top: y - r, right: x + r, bottom: y + r }
    }

    pub(super) fn overlaps(&self, other: &Self) -> bool {
        self.left < other.right
            && other.left < self.right
            && self.top < other.bottom
            && other.top < self.bottom
    }

    /// The distance from the rectangle to (x, y).
    fn distance(&self, x: f64, y: f64) -> f64 {
        let dx = (self.left - x).max(x - self.right).max(0.0);
        let dy = (self.top - y).max(y - self.bottom).max(0.0);
        dx.hypot(dy)
    }

    pub(super) fn is_inside(&self, outer: &Self) -> bool {
        self.left >= outer.left
            && self.right <= outer.right
            && self.top >= outer.top
            && self.bottom <= outer.bottom
    }
}

/// Places names one after another.
pub(super) struct Placer {
    frame: Rect,
    /// Areas that names must not cover.
    pub(super) solid: Vec<Rect>,
    /// Areas that names should not cover.
    pub(super) soft: Vec<Rect>,
    /// Centres of all markers: a name is never closer to another marker than to its own.
    pub(super) markers: Vec<(f64, f64)>,
}

const SIZE: f64 = 13.0;

impl Placer {
    pub(super) fn new(frame: Rect) -> Self {
        Self { frame, solid: Vec::new(), soft: Vec::new(), markers: Vec::new() }
    }

    /// The start of the baseline for `name` near the marker at (x, y), which is then reserved;
    /// `None` if there is no room (the legend still has the name).
    pub(super) fn place(&mut self, x: f64, y: f64, r: f64, name: &str) -> Option<(f64, f64)> {
        let (width, ascent, descent) = (text::width(name, SIZE, false), SIZE * 0.76, SIZE * 0.24);
        let height = ascent + descent;
        let mut best: Option<(usize, Rect)> = None;
        for distance in [r + 4.0, r + 12.0, r + 20.0] {
            let beside = distance * 0.75;
            let places = [
                (x + distance, y - height / 2.0),
                (x - distance - width, y - height / 2.0),
                (x + beside, y - beside - height),
                (x - width / 2.0, y - distance - height),
                (x + beside, y + beside),
                (x - width / 2.0, y + distance),
                (x - beside - width, y - beside - height),
                (x - beside - width, y + beside),
            ];
            for (left, top) in places {
                let rect = Rect {
                    left: left - 2.0,
                    top: top - 1.0,
                    right: left + width + 2.0,
                    bottom: top + height + 1.0,
                };
                if !rect.is_inside(&self.frame) || self.solid.iter().any(|s| s.overlaps(&rect)) {
                    continue;
                }
                let own = rect.distance(x, y);
                let ambiguous =
                    |m: &(f64, f64)| *m != (x, y) && rect.distance(m.0, m.1) < own + 2.0;
                if self.markers.iter().any(ambiguous) {
                    continue;
                }
                let covered = self.soft.iter().filter(|s| s.overlaps(&rect)).count();
                if best.is_none_or(|b| covered < b.0) {
                    best = Some((covered, rect));
                }
            }
        }
        let (_, rect) = best?;
        self.solid.push(rect);
        Some((rect.left + 2.0, rect.top + 1.0 + ascent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_never_overlap_and_stay_inside() {
        let frame = Rect { left: 0.0, top: 0.0, right: 300.0, bottom: 200.0 };
        let mut placer = Placer::new(frame);
        let points: Vec<(f64, f64)> = (0..12)
            .map(|i| (20.0 + 260.0 * f64::from(i * 5 % 12) / 12.0, 20.0 + 14.0 * f64::from(i)))
            .collect();
        placer.solid.extend(points.iter().map(|&(x, y)| Rect::around(x, y, 7.0)));
        placer.markers.clone_from(&points);
        let placed =
            points.iter().filter(|&&(x, y)| placer.place(x, y, 7.0, "policy").is_some()).count();
        assert!(placed >= 10, "{placed} of 12");
        let names = &placer.solid[12..];
        for (i, name) in names.iter().enumerate() {
            assert!(name.is_inside(&frame));
            assert!(names[..i].iter().all(|other| !other.overlaps(name)));
        }
    }

    #[test]
    fn without_room_there_is_no_name() {
        let frame = Rect { left: 0.0, top: 0.0, right: 30.0, bottom: 30.0 };
        assert_eq!(Placer::new(frame).place(15.0, 15.0, 6.0, "a very long name"), None);
    }
}
