//! The embedded font: widths of texts, and rendering of SVG to pixels.
//!
//! DejaVu Sans 2.37, from the `dejavu` crate: the Bitstream Vera licence allows embedding and
//! redistribution free of charge; DejaVu's own changes are in the public domain.

use std::sync::{Arc, LazyLock};

use resvg::{tiny_skia, usvg};
use ttf_parser::Face;

use crate::{Error, Result};

/// The font stack of all figures: the embedded font first, else a face of similar width.
pub(super) const FAMILY: &str = "DejaVu Sans, Verdana, sans-serif";

static REGULAR: LazyLock<Face<'static>> = LazyLock::new(|| {
    Face::parse(dejavu::sans::regular(), 0).expect("the embedded font is well-formed")
});
static BOLD: LazyLock<Face<'static>> = LazyLock::new(|| {
    Face::parse(dejavu::sans::bold(), 0).expect("the embedded font is well-formed")
});

static FONTS: LazyLock<Arc<usvg::fontdb::Database>> = LazyLock::new(|| {
    let mut fonts = usvg::fontdb::Database::new();
    fonts.load_font_data(dejavu::sans::regular().to_vec());
    fonts.load_font_data(dejavu::sans::bold().to_vec());
    Arc::new(fonts)
});

/// The width of `text` in pixels at `size` pixels per em, without kerning; a character that is not
/// in the font counts as one em.
pub(super) fn width(text: &str, size: f64, bold: bool) -> f64 {
    let face = if bold { &*BOLD } else { &*REGULAR };
    let em = f64::from(face.units_per_em());
    let advance = |c: char| {
        let glyph = face.glyph_index(c).and_then(|g| face.glyph_hor_advance(g));
        glyph.map_or(em, f64::from)
    };
    text.chars().map(advance).sum::<f64>() / em * size
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
    let options = usvg::Options {
        font_family: "DejaVu Sans".into(),
        fontdb: FONTS.clone(),
        ..Default::default()
    };
    let tree = usvg::Tree::from_str(svg, &options).map_err(|e| failed(e.to_string()))?;
    let size = tree.size();
    let (width, height) = ((size.width() * scale).round(), (size.height() * scale).round());
    let mut pixels = tiny_skia::Pixmap::new(width as u32, height as u32)
        .ok_or_else(|| failed(format!("{width} × {height} pixels are not a picture")))?;
    let transform = tiny_skia::Transform::from_scale(scale, scale);
    resvg::render(&tree, transform, &mut pixels.as_mut());
    pixels.encode_png().map_err(|e| failed(e.to_string()))
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
}
