//! Tests of whole charts.

use super::super::Figure;
use super::*;

fn panel(lines: Vec<Line>) -> Panel {
    Panel {
        title: "A panel".into(),
        x: AxisSpec::linear("x"),
        y: AxisSpec::linear("y"),
        lines,
        marks: Vec::new(),
    }
}

fn chart(panels: Vec<Panel>) -> Chart {
    Chart { title: "A chart".into(), caption: "What it shows.".into(), columns: 2, panels }
}

fn line(name: &str, style: LineStyle, colour: usize) -> Line {
    Line::new(name, style, colour, vec![(1.0, 2.0), (2.0, 1.0), (3.0, 4.0)])
}

/// The texts of a figure that is well-formed.
fn texts(figure: &Figure) -> Vec<String> {
    let document = roxmltree::Document::parse(&figure.svg).unwrap();
    let all = document.descendants().filter(|n| n.has_tag_name("text"));
    all.map(|n| n.text().unwrap_or_default().to_owned()).collect()
}

/// How often each path's class begins with `class`.
fn count(figure: &Figure, class: &str) -> usize {
    figure.svg.matches(&format!("<path class=\"{class}")).count()
}

const STYLES: [LineStyle; 7] = [
    LineStyle::Solid,
    LineStyle::Dashed,
    LineStyle::Markers,
    LineStyle::SolidMarkers,
    LineStyle::DashedMarkers,
    LineStyle::Cloud,
    LineStyle::Staircase,
];

#[test]
fn the_legend_has_each_name_once() {
    let lines = || STYLES.into_iter().enumerate().map(|(i, s)| line(&format!("line {i}"), s, i));
    let one = chart_figure(&chart(vec![panel(lines().collect())])).unwrap();
    let two =
        chart_figure(&chart(vec![panel(lines().collect()), panel(lines().collect())])).unwrap();
    for figure in [one, two] {
        let texts = texts(&figure);
        for i in 0..STYLES.len() {
            let name = format!("line {i}");
            assert_eq!(texts.iter().filter(|t| **t == name).count(), 1, "{name}: {texts:?}");
        }
    }
}

#[test]
fn the_legend_shows_all_that_is_drawn_under_a_name() {
    let only = |style| vec![line("m", style, 1)];
    let stairs = chart_figure(&chart(vec![panel(only(LineStyle::Staircase))])).unwrap();
    assert_eq!((count(&stairs, "s-c1"), count(&stairs, "f-c1")), (2, 0));
    let both = vec![panel(only(LineStyle::Staircase)), panel(only(LineStyle::Markers))];
    let both = chart_figure(&chart(both)).unwrap();
    // One staircase and three markers on the panels, one of each in the legend.
    assert_eq!((count(&both, "s-c1"), count(&both, "f-c1")), (2, 4));
}

#[test]
fn a_line_with_markers_represents_other_styles_of_its_name() {
    let of = |styles: [LineStyle; 2]| {
        let lines = styles.map(|style| line("m", style, 1)).to_vec();
        chart_figure(&chart(vec![panel(lines)])).unwrap()
    };
    let legend = |figure: &Figure| {
        let document = roxmltree::Document::parse(&figure.svg).unwrap();
        let paths: Vec<_> = document.descendants().filter(|n| n.has_tag_name("path")).collect();
        // The marker comes last, with its line before it.
        let last = [paths[paths.len() - 2], paths[paths.len() - 1]];
        last.map(|p| {
            (p.attribute("class").unwrap().to_owned(), p.has_attribute("stroke-dasharray"))
        })
    };
    let hollow = [("s-c1".to_owned(), true), ("fill-bg s-c1".to_owned(), false)];
    let styles = [LineStyle::Staircase, LineStyle::DashedMarkers];
    assert_eq!(legend(&of(styles)), hollow);
    assert_eq!(legend(&of([styles[1], LineStyle::Markers])), hollow);
}

#[test]
fn guides_have_names_inside_of_the_frame() {
    let mut guided = panel(vec![line("", LineStyle::Solid, 0)]);
    guided.marks = (0..4)
        .flat_map(|i| {
            let at = 1.0 + f64::from(i) / 1.5;
            [Guide::horizontal(at, format!("h{i}")), Guide::vertical(at, format!("v{i}"))]
        })
        .collect();
    let figure = chart_figure(&chart(vec![guided])).unwrap();
    let texts = texts(&figure);
    for name in (0..4).flat_map(|i| [format!("h{i}"), format!("v{i}")]) {
        // The text, and its halo.
        assert_eq!(texts.iter().filter(|t| **t == name).count(), 2, "{name}");
    }
}

#[test]
fn lines_without_a_name_or_a_point_are_not_in_the_legend() {
    let nothing = Line::new("nothing", LineStyle::Solid, 3, vec![(f64::NAN, 1.0)]);
    let lines = vec![line("", LineStyle::Solid, 0), line("a", LineStyle::Solid, 1), nothing];
    let figure = chart_figure(&chart(vec![panel(lines)])).unwrap();
    assert!(texts(&figure).contains(&"a".to_owned()));
    assert!(!texts(&figure).contains(&"nothing".to_owned()));
    assert_eq!((count(&figure, "s-c0"), count(&figure, "s-c1")), (1, 2));
}

#[test]
fn gaps_part_lines_and_leave_out_markers() {
    let points = |y: f64| vec![(1.0, 1.0), (2.0, 2.0), (3.0, y), (4.0, 2.0), (5.0, 1.0)];
    let of = |y: f64, log: bool| {
        let line = Line::new("", LineStyle::SolidMarkers, 0, points(y));
        let spec = AxisSpec { log, ..AxisSpec::linear("y") }.within(0.5, 4.0);
        chart_figure(&chart(vec![Panel { y: spec, ..panel(vec![line]) }])).unwrap()
    };
    let pieces = |figure: &Figure| {
        let start = figure.svg.find("<path class=\"s-c0").unwrap();
        figure.svg[start..].lines().next().unwrap().matches('M').count()
    };
    for (y, log, expected) in [
        (3.0, false, (1, 5)),
        (f64::NAN, false, (2, 4)),
        (f64::INFINITY, false, (2, 4)),
        (3.0, true, (1, 5)),
        (0.0, true, (2, 4)),
        (-1.0, true, (2, 4)),
        // Values out of range are cut off; they are not gaps.
        (-1.0, false, (2, 4)),
    ] {
        let figure = of(y, log);
        assert_eq!((pieces(&figure), count(&figure, "f-c0")), expected, "y = {y}, log {log}");
    }
}

#[test]
fn nothing_is_drawn_outside_of_the_frame() {
    let wild = vec![(-1e300, 1e300), (0.5, 0.5), (1e300, -1e300), (0.2, 1e9), (0.4, f64::MAX)];
    let lines = STYLES.into_iter().enumerate().map(|(i, style)| {
        Line::new("wild", style, 0, wild.clone()).with_errors(vec![1e300, 1e9, 1.0, 0.1, i as f64])
    });
    let unit = |label| AxisSpec::linear(label).within(0.0, 1.0);
    let mut panel = Panel { x: unit("x"), y: unit("y"), ..panel(lines.collect()) };
    panel.marks = vec![Guide::horizontal(7.0, "far off"), Guide::vertical(f64::NAN, "nowhere")];
    let figure = chart_figure(&chart(vec![panel])).unwrap();
    assert!(!texts(&figure).iter().any(|t| t == "far off" || t == "nowhere"));
    let document = roxmltree::Document::parse(&figure.svg).unwrap();
    for path in document.descendants().filter_map(|n| n.attribute("d")) {
        let numbers = path.split(|c: char| c.is_ascii_alphabetic() || c == ' ');
        for number in numbers.filter(|n| !n.is_empty()) {
            let number: f64 = number.parse().unwrap();
            assert!(number.abs() < figure.width.max(figure.height), "{path}");
        }
    }
}

#[test]
fn figures_are_well_formed_and_always_the_same() {
    let mut lines: Vec<Line> =
        STYLES.into_iter().map(|style| line("<a> & \"b\"", style, 0)).collect();
    lines[0] = lines[0].clone().with_errors(vec![0.1, f64::NAN, 0.0]);
    let mut odd = panel(lines);
    odd.title = "1 < 2 & 'so on'".into();
    odd.marks = vec![Guide::horizontal(2.0, "<limit>"), Guide::vertical(1.5, "\u{1}")];
    let chart = chart(vec![odd.clone(), odd]);
    let figure = chart_figure(&chart).unwrap();
    assert_eq!(texts(&figure).iter().filter(|t| *t == "<a> & \"b\"").count(), 1);
    assert_eq!(figure, chart_figure(&chart).unwrap());
    assert!(figure.to_png(1.0).unwrap().starts_with(b"\x89PNG"));
}

#[test]
fn figures_are_never_wider_than_1200_pixels() {
    for columns in 1..=4 {
        let far = Line::new("far", LineStyle::Solid, 0, vec![(-2.5e9, -1.25e-7), (1.0, 1e-7)]);
        let panels = vec![panel(vec![far]); 5];
        let figure = chart_figure(&Chart { columns, ..chart(panels) }).unwrap();
        assert!(figure.width <= 1200.0, "{columns} columns: {}", figure.width);
    }
}

#[test]
fn what_cannot_be_drawn_is_an_error_with_a_remedy() {
    let good = || line("a", LineStyle::Solid, 0);
    let nan = Line::new("n", LineStyle::Solid, 0, vec![(1.0, f64::NAN), (f64::INFINITY, 1.0)]);
    let below = Panel {
        y: AxisSpec::log("y"),
        ..panel(vec![Line::new("b", LineStyle::Solid, 0, vec![(1.0, 0.0), (1.0, -1.0)])])
    };
    let range = Panel { x: AxisSpec::log("x").within(0.0, 1.0), ..panel(vec![good()]) };
    for (bad, remedy) in [
        (chart(vec![]), "at least one panel"),
        (Chart { columns: 0, ..chart(vec![panel(vec![good()])]) }, "from 1 to 4"),
        (chart(vec![panel(vec![good()]), panel(vec![])]), "panels[1].lines"),
        (chart(vec![panel(vec![nan])]), "finite"),
        (chart(vec![below]), "above 0"),
        (chart(vec![range]), "panels[0].x.range"),
        (chart(vec![panel(vec![good(), line("a", LineStyle::Solid, 1)])]), "one per name"),
        (chart(vec![panel(vec![good().with_errors(vec![0.1])])]), "one per point"),
        (chart(vec![panel(vec![good().with_errors(vec![0.1, -0.1, 0.1])])]), "below 0"),
    ] {
        let message = chart_figure(&bad).unwrap_err().to_string();
        assert!(message.contains(remedy), "{message}");
    }
}

#[test]
fn colours_have_markers_of_their_own() {
    let styles: Vec<_> = (0..64).map(|i| key::style(i, false)).collect();
    for (i, style) in styles.iter().enumerate() {
        assert!(!styles[..i].contains(style), "style {i} is used twice");
        assert!(i >= 8 || styles[..i].iter().all(|s| s.shape != style.shape));
    }
}
