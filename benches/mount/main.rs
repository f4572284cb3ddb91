//! The mount beside what is possible: `make bench`.
//!
//! Owns the rounds and the page that shows them, `docs/performance.md`. The first argument may be
//! a part of a measure's name; then nothing is written. Must not know what is measured.

#![expect(clippy::print_stdout, reason = "a benchmark tells what it does")]

mod ceiling;
mod fio;
mod lab;
mod measures;

use std::fmt::Write;
use std::path::Path;

use measures::{Measure, Sample};

const ROUNDS: usize = 5;

/// Between these two lines the page is made; the rest is written by hand.
const BEGIN: &str = "<!-- measured: begin -->";
const END: &str = "<!-- measured: end -->";

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|one| one != "--bench").collect();
    match arguments.first().map(String::as_str) {
        Some("ceiling") => ceiling::run(),
        Some("serve") => lab::serve(),
        wanted => measure(wanted),
    }
}

fn measure(wanted: Option<&str>) -> anyhow::Result<()> {
    let mut table = String::from(
        "| what | mount | beside | ratio | target | CPU-s per GiB | peak RSS, MiB |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for mut measure in measures::all(wanted.unwrap_or_default())? {
        let mut samples = Vec::new();
        for round in 0..ROUNDS {
            let sample = (measure.run)(round)?;
            println!("{}: {sample:?}", measure.name);
            samples.push(sample);
        }
        line(&mut table, &measure, &samples)?;
    }
    println!("{table}");
    if wanted.is_none() {
        write_page(&table)?;
    }
    Ok(())
}

fn line(table: &mut String, measure: &Measure, samples: &[Sample]) -> anyhow::Result<()> {
    let of = |figure: fn(&Sample) -> f64| median(samples.iter().map(figure).collect());
    let cpu: Vec<f64> = samples.iter().filter_map(|sample| sample.cpu).collect();
    let cpu = if cpu.is_empty() { "—".to_owned() } else { format!("{:.2}", median(cpu)) };
    let Measure { name, unit, beside, target, .. } = measure;
    let mount = figure(of(|sample| sample.mount));
    let other = figure(of(|sample| sample.other));
    let ratio = of(|sample| sample.mount / sample.other);
    let peak = of(|sample| sample.peak);
    writeln!(
        table,
        "| {name} | {mount} {unit} | {other} {unit} ({beside}) | {ratio:.2} | {target} | {cpu} | \
         {peak:.0} |"
    )?;
    Ok(())
}

fn figure(value: f64) -> String {
    if value < 100.0 { format!("{value:.1}") } else { format!("{value:.0}") }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn write_page(table: &str) -> anyhow::Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/performance.md");
    let page = std::fs::read_to_string(&path)?;
    let (head, rest) = page.split_once(BEGIN).unwrap_or((page.as_str(), ""));
    let tail = rest.split_once(END).map_or("", |(_, tail)| tail);
    let cores = std::thread::available_parallelism()?;
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let about = format!(
        "Made by `make bench` on {cores} cores, Linux {}: medians of {ROUNDS} rounds.",
        kernel.trim()
    );
    let page = format!("{}{BEGIN}\n{about}\n\n{table}{END}{tail}", head);
    std::fs::write(path, page)?;
    Ok(())
}
