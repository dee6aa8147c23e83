//! The legend of a page's panels: symbols inside a line of text, with their meaning.

use super::front::{Notes, legend_name};
use super::svg::{Shape, Stroke, Style, Svg, styles_of};
use crate::FrontReport;

const SIZE: f64 = 20.0;
const WIDE: f64 = 30.0;

/// The symbols of [`super::front_panels`]: one per policy in order, then those of lines and bars.
pub(crate) struct PolicyKey {
    /// `[n_policies]`: marker and name.
    pub(crate) policies: Vec<(String, String)>,
    /// Symbol and meaning.
    pub(crate) notes: Vec<(String, String)>,
}

/// The legend for `report`.
pub(crate) fn policy_key(report: &FrontReport) -> PolicyKey {
    let middle = SIZE / 2.0;
    let glyph = |draw: &dyn Fn(&mut Svg)| {
        let mut svg = Svg::new("");
        draw(&mut svg);
        svg.glyph(WIDE, SIZE)
    };
    let plain = Style { shape: Shape::Circle, colour: None, hollow: false };
    let policies = report
        .points
        .iter()
        .zip(styles_of(report))
        .map(|(point, style)| {
            let mut svg = Svg::new("");
            svg.marker(middle, middle, 7.0, style, false);
            (svg.glyph(SIZE, SIZE), legend_name(point))
        })
        .collect();
    let Notes { bars, small, ring, stairs, sft } = Notes::of_panels(report);
    let mut notes = vec![(
        glyph(&|svg| {
            svg.line((5.0, middle), (25.0, middle), Stroke::Ink(1.4));
            svg.line((15.0, 1.0), (15.0, 19.0), Stroke::Ink(1.4));
        }),
        bars,
    )];
    let mut add = |meaning: Option<String>, draw: &dyn Fn(&mut Svg)| {
        notes.extend(meaning.map(|meaning| (glyph(draw), meaning)));
    };
    add(small, &|svg| svg.marker(15.0, middle, 3.5, plain, true));
    add(ring, &|svg| {
        svg.marker(15.0, middle, 5.0, plain, false);
        svg.ring(15.0, middle, 8.5);
    });
    add(stairs, &|svg| svg.path("M1 5h14v10h14", Stroke::Ink(1.4)));
    add(sft, &|svg| svg.line((1.0, middle), (29.0, middle), Stroke::Dashed));
    PolicyKey { policies, notes }
}
