//! The embedded font: widths of texts, their outlines, and rendering of SVG to pixels.
//!
//! DejaVu Sans 2.37, from the `dejavu` crate: the Bitstream Vera licence allows embedding and
//! redistribution free of charge; DejaVu's own changes are in the public domain.

use std::fmt::Write as _;
use std::sync::LazyLock;

use resvg::{tiny_skia, usvg};
use roxmltree::{Document, Node};
use ttf_parser::{Face, OutlineBuilder};

use crate::{Error, Result};

/// The font stack of all figures: the embedded font first, else a face of similar width.
pub(super) const FAMILY: &str = "DejaVu Sans, Verdana, sans-serif";

static REGULAR: LazyLock<Face<'static>> = LazyLock::new(|| {
    Face::parse(dejavu::sans::regular(), 0).expect("the embedded font is well-formed")
});
static BOLD: LazyLock<Face<'static>> = LazyLock::new(|| {
    Face::parse(dejavu::sans::bold(), 0).expect("the embedded font is well-formed")
});

fn face(bold: bool) -> &'static Face<'static> {
    if bold { &BOLD } else { &REGULAR }
}

/// The width of `text` in pixels at `size` pixels per em, without kerning; a character that is not
/// in the font counts as one em.
pub(super) fn width(text: &str, size: f64, bold: bool) -> f64 {
    let face = face(bold);
    text.chars().map(|c| advance(face, c)).sum::<f64>() / f64::from(face.units_per_em()) * size
}

/// From a character to the next, in the font's units.
fn advance(face: &Face<'_>, c: char) -> f64 {
    let glyph = face.glyph_index(c).and_then(|g| face.glyph_hor_advance(g));
    glyph.map_or_else(|| f64::from(face.units_per_em()), f64::from)
}

/// `text`, or as much of it as fits into `max_width` with an ellipsis.
pub(super) fn fit(text: &str, size: f64, bold: bool, max_width: f64) -> String {
    if width(text, size, bold) <= max_width {
        return text.to_owned();
    }
    let mut kept: Vec<char> = text.chars().collect();
    loop {
        kept.pop();
        let shorter = format!("{}…", kept.iter().collect::<String>().trim_end());
        if kept.is_empty() || width(&shorter, size, bold) <= max_width {
            return shorter;
        }
    }
}

/// `text` in lines no wider than `max_width`, broken at spaces; a longer word gets its own line.
pub(super) fn wrap(text: &str, size: f64, bold: bool, max_width: f64) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if width(&format!("{line} {word}"), size, bold) <= max_width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// Draws `svg` on its own background, `scale` pixels per CSS pixel.
pub(super) fn render(svg: &str, scale: f32) -> Result<Vec<u8>> {
    let failed = |reason: String| Error::Render(reason);
    if !(scale.is_finite() && scale > 0.0) {
        return Err(failed(format!("`scale` is {scale}, but it must be above 0")));
    }
    let drawn = outlined(svg).map_err(|e| failed(e.to_string()))?;
    let tree = usvg::Tree::from_str(&drawn, &usvg::Options::default())
        .map_err(|e| failed(e.to_string()))?;
    let size = tree.size();
    let (width, height) = ((size.width() * scale).round(), (size.height() * scale).round());
    let mut pixels = tiny_skia::Pixmap::new(width as u32, height as u32)
        .ok_or_else(|| failed(format!("{width} × {height} pixels are not a picture")))?;
    let transform = tiny_skia::Transform::from_scale(scale, scale);
    resvg::render(&tree, transform, &mut pixels.as_mut());
    pixels.encode_png().map_err(|e| failed(e.to_string()))
}

/// `svg` with each `<text>` as a `<path>` in the embedded font: one character after the other, as far apart as
/// [`width`] says, at the place given by the attributes that [`super::svg::Svg`] writes. A renderer that sets text
/// itself shapes every script, but took 4 % of the time of the first build.
fn outlined(svg: &str) -> std::result::Result<String, roxmltree::Error> {
    let document = Document::parse(svg)?;
    let mut out = String::with_capacity(2 * svg.len());
    let mut copied = 0;
    for text in document.descendants().filter(|node| node.has_tag_name("text")) {
        out.push_str(&svg[copied..text.range().start]);
        copied = text.range().end;
        out.push_str("<path");
        for attribute in text.attributes().filter(|a| !OF_TEXT.contains(&a.name())) {
            // As it was written, with its entities.
            let _ = write!(out, " {}", &svg[attribute.range()]);
        }
        let _ = write!(out, " d=\"{}\"/>", path(text));
    }
    out.push_str(&svg[copied..]);
    Ok(out)
}

/// Attributes that say where a text is and how it is set: its path has them in its coordinates.
const OF_TEXT: [&str; 5] = ["x", "y", "font-size", "font-weight", "text-anchor"];

/// The outlines of a `<text>`, as a path's `d`.
fn path(text: Node<'_, '_>) -> String {
    let number = |name: &str| text.attribute(name).and_then(|a| a.parse().ok()).unwrap_or(0.0);
    let (size, bold) = (number("font-size"), text.attribute("font-weight") == Some("bold"));
    let content = text.text().unwrap_or_default();
    let (face, wide) = (face(bold), width(content, size, bold));
    let before = match text.attribute("text-anchor") {
        Some("middle") => wide / 2.0,
        Some("end") => wide,
        _ => 0.0,
    };
    let scale = size / f64::from(face.units_per_em());
    let (x, y) = (number("x") - before, number("y"));
    let mut pen = Pen { d: String::new(), x, y, scale };
    for c in content.chars() {
        // The first glyph, a box, stands for characters that the font lacks.
        face.outline_glyph(face.glyph_index(c).unwrap_or_default(), &mut pen);
        pen.x += advance(face, c) * scale;
    }
    pen.d
}

/// Writes the outlines of glyphs as a path's `d`.
struct Pen {
    d: String,
    /// The origin of the glyph that is drawn, in pixels.
    x: f64,
    y: f64,
    /// Pixels per unit of the font.
    scale: f64,
}

impl Pen {
    /// A command and its points; the font's ordinates go upwards.
    fn put<const N: usize>(&mut self, command: char, points: [(f32, f32); N]) {
        self.d.push(command);
        for (x, y) in points {
            let (x, y) = (f64::from(x) * self.scale, f64::from(y) * self.scale);
            coordinate(&mut self.d, self.x + x);
            coordinate(&mut self.d, self.y - y);
        }
    }
}

/// Writes a number of pixels in thousandths, and a space. Thousands of them are in a figure, and formatting as `{:.3}`
/// takes several times as long.
fn coordinate(d: &mut String, x: f64) {
    let thousandths = (x * 1000.0).round() as i64;
    let sign = if thousandths < 0 { "-" } else { "" };
    let (whole, rest) = (thousandths.unsigned_abs() / 1000, thousandths.unsigned_abs() % 1000);
    let _ = match rest {
        0 => write!(d, "{sign}{whole} "),
        _ => write!(d, "{sign}{whole}.{rest:03} "),
    };
}

impl OutlineBuilder for Pen {
    fn move_to(&mut self, x: f32, y: f32) {
        self.put('M', [(x, y)]);
    }

    fn line_to(&mut self, x: f32, y: f32) {
        self.put('L', [(x, y)]);
    }

    fn quad_to(&mut self, x1: f32, y1: f32, x: f32, y: f32) {
        self.put('Q', [(x1, y1), (x, y)]);
    }

    fn curve_to(&mut self, x1: f32, y1: f32, x2: f32, y2: f32, x: f32, y: f32) {
        self.put('C', [(x1, y1), (x2, y2), (x, y)]);
    }

    fn close(&mut self) {
        self.put('Z', []);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_come_from_the_font() {
        assert!(width("iii", 12.0, false) < width("mmm", 12.0, false));
        assert!(width("Text", 12.0, false) < width("Text", 12.0, true));
        assert!((width("ab", 24.0, false) - 2.0 * width("ab", 12.0, false)).abs() < 1e-9);
    }

    #[test]
    fn texts_are_cut_and_wrapped_to_fit() {
        assert_eq!(fit("short", 12.0, false, 100.0), "short");
        let cut = fit("a rather long label of a policy", 12.0, false, 80.0);
        assert!(cut.ends_with('…') && width(&cut, 12.0, false) <= 80.0, "{cut}");
        let lines = wrap("one two three four five six seven", 12.0, false, 70.0);
        assert!(lines.len() > 2 && lines.iter().all(|l| width(l, 12.0, false) <= 70.0));
        assert_eq!(lines.join(" "), "one two three four five six seven");
    }

    #[test]
    fn text_is_drawn_where_the_font_says_it_is() {
        // The columns and rows of pixels that are not white.
        let ink = |more: &str, content: &str| {
            let svg = format!(
                "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"200\" height=\"100\">\
                 <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\
                 <text x=\"100.0\" y=\"50.0\" font-size=\"20\"{more} fill=\"#000000\">{content}</text></svg>"
            );
            let pixels = tiny_skia::Pixmap::decode_png(&render(&svg, 1.0).unwrap()).unwrap();
            let dark = |(i, p): (usize, &tiny_skia::PremultipliedColorU8)| {
                (p.red() < 128).then_some((i % 200, i / 200))
            };
            let dark: Vec<_> = pixels.pixels().iter().enumerate().filter_map(dark).collect();
            let range = |of: &dyn Fn(&(usize, usize)) -> usize| {
                let all = dark.iter().map(of);
                (all.clone().min().unwrap() as f64, all.max().unwrap() as f64)
            };
            (range(&|p| p.0), range(&|p| p.1))
        };
        let wide = width("HHHHH", 20.0, false);
        let (columns, rows) = ink("", "HHHHH");
        assert!((columns.0 - 100.0).abs() <= 3.0 && (columns.1 - 100.0 - wide).abs() <= 4.0);
        assert!(rows.1 == 49.0 && (33.0..38.0).contains(&rows.0), "{rows:?}");
        let (columns, _) = ink(" text-anchor=\"end\"", "HHHHH");
        assert!((columns.1 - 100.0).abs() <= 4.0, "{columns:?}");
        let (columns, _) = ink(" text-anchor=\"middle\"", "HHHHH");
        assert!((columns.0 + columns.1 - 200.0).abs() <= 4.0, "{columns:?}");
        let bold = ink(" font-weight=\"bold\"", "HHHHH").0;
        assert!(bold.1 > 100.0 + wide);
        // Turned upwards at its place.
        let (columns, rows) = ink(" transform=\"rotate(-90 100.0 50.0)\"", "HHHHH");
        assert!(columns.1 <= 100.0 && rows.1 <= 50.0 && rows.0 < 5.0, "{columns:?} {rows:?}");
        // Entities, and characters that the font lacks.
        assert!(ink("", "a &lt; b &amp; c").0.1 > 160.0);
        assert!(ink("", "\u{4e2d}").0.1 > 105.0);
    }

    #[test]
    fn coordinates_have_three_decimals() {
        let mut d = String::new();
        for x in [0.0, 12.0, 3.5, -0.001, -7.0625, 1234.0996, 0.0004] {
            coordinate(&mut d, x);
        }
        assert_eq!(d, "0 12 3.500 -0.001 -7.063 1234.100 0 ");
    }

    #[test]
    fn everything_but_text_is_kept() {
        let svg = "<svg xmlns=\"http://www.w3.org/2000/svg\"><g id=\"a &amp; b\"><text class=\"q&quot;\" x=\"1\" y=\"2\" \
                   font-size=\"9\"></text></g><path d=\"M0 0\"/></svg>";
        let expected = "<svg xmlns=\"http://www.w3.org/2000/svg\"><g id=\"a &amp; b\"><path class=\"q&quot;\" d=\"\"/>\
                        </g><path d=\"M0 0\"/></svg>";
        assert_eq!(outlined(svg).unwrap(), expected);
    }
}
