//! The compiled program, run by an interpreter of its own, against the profile read rule by rule.

use super::*;
use crate::seccomp::default_seccomp;
use oci_spec::runtime::Capability;

struct Call {
    arch: u32,
    number: u32,
    arguments: [u64; 6],
}

/// Runs a filter; panics on anything that the kernel's checker would refuse.
fn interpret(program: &[FilterInstruction], call: &Call) -> (u32, usize) {
    let (mut accumulator, mut at, mut steps) = (0_u32, 0_usize, 0);
    loop {
        let one = program[at];
        at += 1;
        steps += 1;
        let jump = |taken| usize::from(if taken { one.jump_true } else { one.jump_false });
        match one.code {
            LOAD => accumulator = load(call, one.operand),
            AND => accumulator &= one.operand,
            JUMP => at += one.operand as usize,
            JUMP_EQUAL => at += jump(accumulator == one.operand),
            JUMP_GREATER => at += jump(accumulator > one.operand),
            JUMP_GREATER_EQUAL => at += jump(accumulator >= one.operand),
            RETURN => return (one.operand, steps),
            other => panic!("unknown instruction {other:#x}"),
        }
    }
}

fn load(call: &Call, offset: u32) -> u32 {
    match offset {
        0 => call.number,
        4 => call.arch,
        16..64 => {
            let argument = call.arguments[(offset as usize - 16) / 8];
            if offset.is_multiple_of(8) {
                argument as u32
            } else {
                (argument >> 32) as u32
            }
        }
        other => panic!("load from {other}"),
    }
}

/// The profile's own meaning, without any tree.
fn expected(profile: &LinuxSeccomp, name: &str, arguments: &[u64; 6]) -> u32 {
    let mut answer = None;
    for syscall in profile
        .syscalls()
        .iter()
        .flatten()
        .filter(|one| one.names().iter().any(|known| known == name))
    {
        let action = action_value(syscall.action(), syscall.errno_ret());
        let conditions: Vec<_> = syscall.args().iter().flatten().collect();
        if conditions.is_empty() {
            return action;
        }
        if answer.is_none() && conditions.iter().all(|one| holds(one, arguments[one.index()])) {
            answer = Some(action);
        }
    }
    answer.unwrap_or(action_value(
        profile.default_action(),
        profile.default_errno_ret(),
    ))
}

fn holds(condition: &LinuxSeccompArg, argument: u64) -> bool {
    let value = condition.value();
    match condition.op() {
        Operator::ScmpCmpNe => argument != value,
        Operator::ScmpCmpLt => argument < value,
        Operator::ScmpCmpLe => argument <= value,
        Operator::ScmpCmpEq => argument == value,
        Operator::ScmpCmpGe => argument >= value,
        Operator::ScmpCmpGt => argument > value,
        Operator::ScmpCmpMaskedEq => argument & value == condition.value_two().unwrap_or(0),
    }
}

const SAMPLES: [u64; 12] = [
    0,
    1,
    2,
    8,
    16,
    40,
    41,
    0x2_0000,
    0x1000_0000,
    0xffff_ffff,
    0x1_0000_0028,
    u64::MAX,
];

fn check_all(profile: &LinuxSeccomp) {
    let program = compile(profile).unwrap();
    for (name, x86_64, x86, x32) in SYSCALLS.iter().copied() {
        let entries = [
            (ARCH_X86_64, x86_64),
            (ARCH_X86, x86),
            (ARCH_X86_64, x32.map(|number| number | X32_BIT)),
        ];
        for (arch, number) in entries {
            let Some(number) = number else { continue };
            for first in SAMPLES {
                let arguments = [first, 7, 0, 0, 0, 0];
                let wanted = expected(profile, name, &arguments);
                let (got, steps) = interpret(
                    &program,
                    &Call {
                        arch,
                        number,
                        arguments,
                    },
                );
                let unknown = got == libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
                assert!(
                    got == wanted || unknown && wanted != libc::SECCOMP_RET_ALLOW,
                    "{name} {arch:#x} {first:#x}"
                );
                assert!(steps < 40, "{name} takes {steps} instructions");
            }
        }
    }
}

#[test]
fn default_profile_compiles_to_what_it_says() {
    check_all(&default_seccomp(&crate::default_capabilities()));
    check_all(&default_seccomp(&[]));
    check_all(&default_seccomp(&[
        Capability::SysAdmin,
        Capability::SysPtrace,
        Capability::Bpf,
    ]));
}

#[test]
fn every_comparison_is_exact_at_its_edges() {
    for operator in ["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"] {
        for value in SAMPLES {
            let profile: LinuxSeccomp = serde_json::from_value(serde_json::json!({
                "defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86_64"],
                "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW",
                    "args": [{"index": 0, "value": value, "valueTwo": 8, "op": format!("SCMP_CMP_{operator}")}]}],
            }))
            .unwrap();
            let program = compile(&profile).unwrap();
            for near in [
                value.wrapping_sub(1),
                value,
                value.wrapping_add(1),
                value ^ (1 << 32),
                8,
            ] {
                let call = Call {
                    arch: ARCH_X86_64,
                    number: 0,
                    arguments: [near, 0, 0, 0, 0, 0],
                };
                let wanted = expected(&profile, "read", &call.arguments);
                assert_eq!(
                    interpret(&program, &call).0,
                    wanted,
                    "{near:#x} {operator} {value:#x}"
                );
            }
        }
    }
}

#[test]
fn foreign_architectures_are_killed() {
    let program = compile(&default_seccomp(&[])).unwrap();
    let call = Call {
        arch: 0xc000_00b7,
        number: 0,
        arguments: [0; 6],
    };
    assert_eq!(interpret(&program, &call).0, RETURN_KILL_THREAD);
}

#[test]
fn calls_newer_than_the_profile_are_not_implemented() {
    let program = compile(&default_seccomp(&[])).unwrap();
    let call = Call {
        arch: ARCH_X86_64,
        number: 2000,
        arguments: [0; 6],
    };
    assert_eq!(
        interpret(&program, &call).0,
        libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32
    );
}

#[test]
fn call_names_are_sorted() {
    assert!(SYSCALLS.is_sorted_by(|a, b| a.0 < b.0));
}
