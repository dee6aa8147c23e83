//! From the points of a line to what is drawn inside a frame.

use super::super::labels::Rect;

pub(super) type Point = (f64, f64);

/// The steps of the front of `points`, larger being better in both: x ascending, y descending.
pub(super) fn front(points: &[Point]) -> Vec<Point> {
    let mut sorted = points.to_vec();
    sorted.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.total_cmp(&a.1)));
    let mut steps: Vec<Point> = Vec::new();
    for point in sorted {
        if steps.last().is_none_or(|last| point.1 > last.1) {
            steps.push(point);
        }
    }
    steps.reverse();
    steps
}

/// The corners, in pixels, of a staircase over `steps` (in pixels, x ascending): from the frame's
/// left edge down to its bottom.
pub(super) fn corners(steps: &[Point], frame: &Rect) -> Vec<Point> {
    let mut corners = Vec::with_capacity(2 * steps.len() + 1);
    let mut from = frame.left;
    for &(x, y) in steps {
        corners.push((from, y));
        corners.push((x, y));
        from = x;
    }
    if !steps.is_empty() {
        corners.push((from, frame.bottom));
    }
    corners
}

/// The part of the segment inside `frame`, if any (Liang and Barsky's method).
pub(super) fn clip(from: Point, to: Point, frame: &Rect) -> Option<(Point, Point)> {
    let (dx, dy) = (to.0 - from.0, to.1 - from.1);
    let (mut enter, mut leave) = (0.0_f64, 1.0_f64);
    for (towards, room) in [
        (-dx, from.0 - frame.left),
        (dx, frame.right - from.0),
        (-dy, from.1 - frame.top),
        (dy, frame.bottom - from.1),
    ] {
        if towards == 0.0 {
            if room < 0.0 {
                return None;
            }
        } else if towards < 0.0 {
            enter = enter.max(room / towards);
        } else {
            leave = leave.min(room / towards);
        }
    }
    let at = |t: f64, end: Point, whole: f64| {
        let (x, y) = if t == whole { end } else { (from.0 + t * dx, from.1 + t * dy) };
        // For ends so far away that the sums, or `t`, are rounded coarsely.
        (x.clamp(frame.left, frame.right), y.clamp(frame.top, frame.bottom))
    };
    (enter <= leave).then(|| (at(enter, from, 0.0), at(leave, to, 1.0)))
}

/// The pieces of the line through `points` inside `frame`; `None` among the points is a gap.
pub(super) fn pieces(points: &[Option<Point>], frame: &Rect) -> Vec<Vec<Point>> {
    let mut pieces: Vec<Vec<Point>> = Vec::new();
    for run in points.split(Option::is_none) {
        let run: Vec<Point> = run.iter().copied().flatten().collect();
        let mut last: Option<Point> = None;
        for pair in run.windows(2) {
            let Some((from, to)) = clip(pair[0], pair[1], frame) else { continue };
            match pieces.last_mut() {
                Some(piece) if last == Some(from) => piece.push(to),
                _ => pieces.push(vec![from, to]),
            }
            last = Some(to);
        }
        // A single point between gaps is drawn as a dash.
        if let [(x, y)] = run[..] {
            pieces.extend(clip((x - 3.0, y), (x + 3.0, y), frame).map(|(a, b)| vec![a, b]));
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: Rect = Rect { left: 0.0, top: 0.0, right: 10.0, bottom: 10.0 };

    #[test]
    fn segments_are_cut_at_the_frame() {
        assert_eq!(clip((-5.0, 5.0), (15.0, 5.0), &FRAME), Some(((0.0, 5.0), (10.0, 5.0))));
        assert_eq!(clip((1.0, 1.0), (2.0, 3.0), &FRAME), Some(((1.0, 1.0), (2.0, 3.0))));
        assert_eq!(clip((-5.0, 0.0), (0.0, 20.0), &FRAME), None);
        assert_eq!(clip((-1.0, -1.0), (-1.0, 20.0), &FRAME), None);
        let (_, end) = clip((5.0, 5.0), (1e300, 5.0), &FRAME).unwrap();
        assert!((end.0 - 10.0).abs() < 1e-6 && end.1 == 5.0);
    }

    #[test]
    fn gaps_part_a_line() {
        let points =
            [Some((1.0, 1.0)), Some((2.0, 2.0)), None, Some((5.0, 5.0)), None, Some((7.0, 20.0))];
        let expected = [vec![(1.0, 1.0), (2.0, 2.0)], vec![(2.0, 5.0), (8.0, 5.0)]];
        assert_eq!(pieces(&points, &FRAME), expected);
        // Leaves and returns: two pieces, although no point is missing.
        let out = [Some((1.0, 5.0)), Some((5.0, 25.0)), Some((9.0, 5.0))];
        assert_eq!(pieces(&out, &FRAME), [[(1.0, 5.0), (2.0, 10.0)], [(8.0, 10.0), (9.0, 5.0)]]);
    }

    #[test]
    fn a_front_keeps_what_nothing_dominates() {
        let points = [(1.0, 3.0), (2.0, 2.0), (1.5, 1.5), (3.0, 1.0), (3.0, 0.5), (1.0, 3.0)];
        assert_eq!(front(&points), [(1.0, 3.0), (2.0, 2.0), (3.0, 1.0)]);
        assert_eq!(
            corners(&[(4.0, 2.0), (6.0, 5.0)], &FRAME),
            [(0.0, 2.0), (4.0, 2.0), (4.0, 5.0), (6.0, 5.0), (6.0, 10.0)]
        );
        assert!(front(&[]).is_empty() && corners(&[], &FRAME).is_empty());
    }
}
