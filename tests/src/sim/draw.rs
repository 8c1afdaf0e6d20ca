//! The tables as a picture: panels side by side in one SVG, both axes logarithmic.

use std::fmt::Write as _;

const WIDTH: f64 = 460.0;
const HEIGHT: f64 = 360.0;
/// Around the plot: left, right, top, bottom.
const MARGIN: [f64; 4] = [58.0, 16.0, 34.0, 46.0];
const COLOURS: [&str; 5] = ["#1b6ca8", "#c8553d", "#588157", "#8d6a9f", "#b08900"];

/// One panel.
#[derive(Clone, Debug)]
pub struct Panel {
    pub title: String,
    pub x: String,
    pub y: String,
    pub series: Vec<Series>,
}

/// Points that belong together. What is not more than zero has no place on a logarithmic axis, and is drawn at its edge.
#[derive(Clone, Debug)]
pub struct Series {
    pub name: String,
    pub points: Vec<(f64, f64)>,
    /// Written beside the points; as many, or none.
    pub labels: Vec<String>,
    pub line: bool,
}

/// The panels as one SVG document.
pub fn svg(panels: &[Panel]) -> String {
    let width = WIDTH * panels.len() as f64;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{HEIGHT}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (i, panel) in panels.iter().enumerate() {
        let _ = writeln!(out, "<g transform=\"translate({},0)\">", WIDTH * i as f64);
        draw(&mut out, panel);
        out.push_str("</g>\n");
    }
    out + "</svg>\n"
}

fn draw(out: &mut String, panel: &Panel) {
    let all = || panel.series.iter().flat_map(|s| &s.points);
    let (x, y) = (Axis::over(all().map(|p| p.0)), Axis::over(all().map(|p| p.1)));
    let [left, right, top, bottom] = MARGIN;
    let (w, h) = (WIDTH - left - right, HEIGHT - top - bottom);
    let px = |v: f64| left + x.part(v) * w;
    let py = |v: f64| top + (1.0 - y.part(v)) * h;
    text(out, WIDTH / 2.0, 18.0, "middle", "#000", &panel.title);
    text(out, left + w / 2.0, HEIGHT - 10.0, "middle", "#333", &panel.x);
    let _ = writeln!(
        out,
        "<text transform=\"translate(14,{}) rotate(-90)\" text-anchor=\"middle\" fill=\"#333\">{}</text>",
        top + h / 2.0,
        escaped(&panel.y)
    );
    for decade in x.decades() {
        let at = px(decade);
        let _ = writeln!(out, "<path d=\"M{at:.1} {top}V{:.1}\" stroke=\"#ddd\"/>", top + h);
        text(out, at, top + h + 15.0, "middle", "#333", &short(decade));
    }
    for decade in y.decades() {
        let at = py(decade);
        let _ = writeln!(out, "<path d=\"M{left} {at:.1}H{:.1}\" stroke=\"#ddd\"/>", left + w);
        text(out, left - 5.0, at + 4.0, "end", "#333", &short(decade));
    }
    for (i, series) in panel.series.iter().enumerate() {
        let colour = COLOURS[i % COLOURS.len()];
        if series.line {
            let points: Vec<_> = series.points.iter().map(|p| format!("{:.1},{:.1}", px(p.0), py(p.1))).collect();
            let _ = writeln!(out, "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\"/>", points.join(" "));
        }
        for (n, p) in series.points.iter().enumerate() {
            let _ = writeln!(out, "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"/>", px(p.0), py(p.1));
            if let Some(label) = series.labels.get(n) {
                text(out, px(p.0) + 5.0, py(p.1) - 4.0, "start", colour, label);
            }
        }
        text(out, left + w - 4.0, top + 14.0 + 14.0 * i as f64, "end", colour, &series.name);
    }
}

/// From one power of ten to another.
#[derive(Clone, Copy, Debug)]
struct Axis {
    low: i32,
    high: i32,
}

impl Axis {
    fn over(values: impl Iterator<Item = f64>) -> Self {
        let logs: Vec<f64> = values.filter(|v| *v > 0.0 && v.is_finite()).map(f64::log10).collect();
        let low = logs.iter().copied().fold(f64::INFINITY, f64::min);
        let high = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if logs.is_empty() {
            return Self { low: 0, high: 1 };
        }
        let low = low.floor() as i32;
        Self { low, high: (high.ceil() as i32).max(low + 1) }
    }

    /// 0 to 1.
    fn part(self, v: f64) -> f64 {
        if v > 0.0 { ((v.log10() - f64::from(self.low)) / f64::from(self.high - self.low)).clamp(0.0, 1.0) } else { 0.0 }
    }

    fn decades(self) -> impl Iterator<Item = f64> {
        (self.low..=self.high).map(|n| 10f64.powi(n))
    }
}

fn text(out: &mut String, x: f64, y: f64, anchor: &str, colour: &str, words: &str) {
    let _ = writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"{colour}\">{}</text>", escaped(words));
}

fn escaped(words: &str) -> String {
    words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn short(n: f64) -> String {
    if (0.001..1e5).contains(&n) { format!("{n}") } else { format!("{n:e}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_stand_where_their_logarithms_are() {
        let axis = Axis::over([2.0, 500.0, 0.0].into_iter());
        assert_eq!((axis.low, axis.high), (0, 3));
        assert_eq!([0.0, 1.0, 10.0, 1000.0].map(|v| (axis.part(v) * 3.0).round()), [0.0, 0.0, 1.0, 3.0]);
        assert_eq!(axis.decades().collect::<Vec<_>>(), [1.0, 10.0, 100.0, 1000.0]);
    }

    #[test]
    fn a_picture_has_all_points_and_names() {
        let series = Series { name: "a < b".into(), points: vec![(1.0, 1.0), (10.0, 0.0)], labels: vec!["one".into()], line: true };
        let panel = Panel { title: "t".into(), x: "x".into(), y: "y".into(), series: vec![series] };
        let svg = svg(&[panel.clone(), panel]);
        assert_eq!((svg.matches("<circle").count(), svg.matches("<polyline").count(), svg.matches("<g ").count()), (4, 2, 2));
        assert!(svg.contains("a &lt; b") && svg.contains(">one<") && !svg.contains("NaN"), "{svg}");
    }
}
