//! What a start costs; printed, never asserted.

use crate::support::{Sandbox, pipes, start_exec, wait};
use std::time::Instant;

pub const TESTS: &[(&str, fn())] = &[("timing_of_a_start", timing_of_a_start)];

fn timing_of_a_start() {
    let sandbox = Sandbox::new();
    let plan = sandbox.plan(&["true"]).build();
    let mut figures: [Vec<u128>; 4] = Default::default();
    for _ in 0..40 {
        let began = Instant::now();
        let stem = sandbox.stem().unwrap();
        figures[0].push(began.elapsed().as_micros());
        let (stdio, _output) = pipes();
        let began = Instant::now();
        let init = stem.start(&plan, stdio, || Ok(())).unwrap().0;
        figures[1].push(began.elapsed().as_micros());
        wait(init.pid);
        figures[2].push(began.elapsed().as_micros());
    }
    let running = sandbox.start(&sandbox.plan(&["sleep", "100"])).unwrap();
    for _ in 0..40 {
        let (stdio, _output) = pipes();
        let exec_plan = sandbox.exec_plan(&["true"]);
        let began = Instant::now();
        let exec = start_exec(&running.init, &exec_plan, stdio).unwrap();
        wait(exec.pid);
        figures[3].push(began.elapsed().as_micros());
    }
    running.kill();
    for (name, values) in ["prepare", "start to execve", "start to end", "exec to end"]
        .iter()
        .zip(&mut figures)
    {
        values.sort_unstable();
        println!(
            "  {name}: median {} µs, least {} µs",
            values[values.len() / 2],
            values[0]
        );
    }
}
