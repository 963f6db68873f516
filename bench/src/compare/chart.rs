//! The results as a picture: how many times better than the reference, on a logarithmic scale.
//!
//! The picture brings its own light ground, so that it can be read on any page.

use anyhow::{Result, anyhow};
use plotters::coord::ranged1d::SegmentValue;
use plotters::prelude::*;

use super::results::Results;

const WIDTH: u32 = 1000;
const ROW_HEIGHT: u32 = 22;
/// Title, axis and margins.
const FRAME_HEIGHT: u32 = 110;
const LABEL_WIDTH: u32 = 420;
/// Room right of the longest bar for its figure.
const HEADROOM: f64 = 2.5;
const INK: RGBColor = RGBColor(36, 41, 47);
const FAINT: RGBColor = RGBColor(208, 215, 222);
const BETTER: RGBColor = RGBColor(31, 111, 180);
const WORSE: RGBColor = RGBColor(190, 76, 0);

struct Bar {
    label: String,
    median: f64,
    min: f64,
    max: f64,
}

/// Draws a bar for what matters of each workload, with the spread over it.
///
/// # Errors
/// The drawing library refuses.
pub(super) fn svg(results: &Results) -> Result<String> {
    let bars = bars(results);
    let mut svg = String::new();
    let rows = u32::try_from(bars.len())?;
    draw(&mut svg, &bars, rows).map_err(|error| anyhow!("chart: {error}"))?;
    Ok(svg)
}

fn bars(results: &Results) -> Vec<Bar> {
    let mut bars = Vec::new();
    for found in &results.workloads {
        for figure in found.essentials() {
            // A ratio of nothing to nothing is no bar.
            let gain = figure
                .gain()
                .filter(|(_, min, max)| *min > 0.0 && max.is_finite());
            if let Some((median, min, max)) = gain {
                let label = format!("{}: {}", found.name, figure.name);
                bars.push(Bar {
                    label,
                    median,
                    min,
                    max,
                });
            }
        }
    }
    bars
}

fn draw(svg: &mut String, bars: &[Bar], rows: u32) -> Result<(), Box<dyn std::error::Error>> {
    let root =
        SVGBackend::with_string(svg, (WIDTH, FRAME_HEIGHT + ROW_HEIGHT * rows)).into_drawing_area();
    root.fill(&WHITE)?;
    let most = bars.iter().map(|bar| bar.max).fold(10.0, f64::max) * HEADROOM;
    let least = bars.iter().map(|bar| bar.min).fold(0.5, f64::min) * 0.8;
    let count = bars.len();
    let mut chart = ChartBuilder::on(&root)
        .margin(12)
        .caption(
            "Ours against the Go nsqd: times better (rates: more, costs: less); median, least, most",
            ("sans-serif", 16).into_font().color(&INK),
        )
        .set_label_area_size(LabelAreaPosition::Left, LABEL_WIDTH)
        .set_label_area_size(LabelAreaPosition::Bottom, 36)
        .build_cartesian_2d((least..most).log_scale(), (0..count.saturating_sub(1)).into_segmented())?;
    let label = |row: &SegmentValue<usize>| match row {
        // The first workload stands at the top.
        SegmentValue::CenterOf(row) if *row < count => bars[count - 1 - row].label.clone(),
        SegmentValue::CenterOf(_) | SegmentValue::Exact(_) | SegmentValue::Last => String::new(),
    };
    chart
        .configure_mesh()
        .disable_y_mesh()
        .bold_line_style(FAINT)
        .light_line_style(TRANSPARENT)
        .axis_style(FAINT)
        .y_labels(count)
        .y_label_formatter(&label)
        .x_label_formatter(&|factor| format!("{factor}x"))
        .label_style(("sans-serif", 13).into_font().color(&INK))
        .draw()?;
    for (row, bar) in bars.iter().rev().enumerate() {
        let color = if bar.median >= 1.0 { BETTER } else { WORSE };
        let (low, high) = (SegmentValue::Exact(row), SegmentValue::Exact(row + 1));
        let mut body = Rectangle::new([(1.0, low), (bar.median, high)], color.mix(0.75).filled());
        body.set_margin(4, 4, 0, 0);
        let middle = SegmentValue::CenterOf(row);
        let whisker = PathElement::new(
            vec![(bar.min, middle.clone()), (bar.max, middle.clone())],
            INK.stroke_width(2),
        );
        let text = EmptyElement::at((bar.max.max(1.0), middle))
            + Text::new(
                format!("{:.1}x", bar.median),
                (6, -6),
                ("sans-serif", 13).into_font().color(&INK),
            );
        chart.draw_series([body])?;
        chart.draw_series([whisker])?;
        chart.draw_series([text])?;
    }
    let parity = [(1.0, SegmentValue::Exact(0)), (1.0, SegmentValue::Last)];
    chart.draw_series([PathElement::new(parity.to_vec(), INK.stroke_width(1))])?;
    root.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(label: &str, median: f64) -> Bar {
        Bar {
            label: label.into(),
            median,
            min: median * 0.9,
            max: median * 1.1,
        }
    }

    #[test]
    fn every_bar_has_its_label_and_figure() {
        let bars = [
            bar("one: msg/s", 12.34),
            bar("two: CPU", 0.5),
            bar("three: RSS", 700.0),
        ];
        let mut svg = String::new();
        draw(&mut svg, &bars, 3).unwrap();
        for want in [
            "one: msg/s",
            "two: CPU",
            "three: RSS",
            "12.3x",
            "0.5x",
            "700.0x",
            "</svg>",
        ] {
            assert!(svg.contains(want), "{want} in {svg}");
        }
    }

    #[test]
    fn nothing_to_show_is_an_empty_picture() {
        let mut svg = String::new();
        draw(&mut svg, &[], 0).unwrap();
        assert!(svg.contains("</svg>"));
    }
}
