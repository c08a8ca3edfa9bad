use super::*;
use crate::dockerfile::parse as read;

fn plan_of(text: &str, target: Option<&str>, args: &[(&str, &str)]) -> Result<Plan> {
    let file = read(text.as_bytes()).unwrap_or_else(|diagnostics| panic!("{text}: {diagnostics:?}"));
    let build_args: Vec<(String, String)> = args.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
    let linux = Platform::linux("amd64", "");
    plan(&file, &Options { target, build_args: &build_args, build_platform: linux.clone(), target_platform: linux })
}

/// Stages to build and what they stand on, or the error.
fn show(plan: &Result<Plan>) -> String {
    let plan = match plan {
        Ok(plan) => plan,
        Err(e) => return e.to_string(),
    };
    let stage = |&index: &usize| match &plan.stages[index].base {
        Base::Scratch => format!("{index}:scratch"),
        Base::Stage(base) => format!("{index}:#{base}"),
        Base::Image(image) => format!("{index}:{image}"),
    };
    plan.order.iter().map(stage).collect::<Vec<_>>().join(" ")
}

#[test]
fn what_is_needed() {
    let check = |text: &str, want: &str| assert_eq!(show(&plan_of(text, None, &[])), want, "{text}");
    check("FROM a", "0:a");
    check("FROM scratch", "0:scratch");
    check("FROM a AS x\nFROM b", "1:b");
    check("FROM a AS X\nFROM x", "0:a 1:#0");
    check("FROM a AS x\nFROM X", "1:X");
    check("FROM a AS x\nFROM b AS x\nFROM x", "1:b 2:#1");
    check("FROM a AS scratch\nFROM scratch", "0:a 1:#0");
    check("FROM a AS x\nFROM b\nCOPY --from=X . /", "0:a 1:b");
    check("FROM a\nFROM b\nCOPY --from=0 . /", "0:a 1:b");
    check("FROM a\nCOPY --from=img:1 . /", "0:a");
    check("FROM a AS x\nFROM b\nRUN --mount=from=x,target=/m y", "0:a 1:b");
    check("FROM a AS x\nFROM b\nRUN --mount=from=0,target=/m y", "1:b");
    check("FROM a AS x\nONBUILD COPY --from=y . /\nFROM b AS y\nFROM x", "0:a 1:b 2:#0");
    check("FROM a AS x\nONBUILD COPY --from=y . /\nFROM b AS y\nFROM x AS z\nFROM z", "0:a 1:b 2:#0 3:#2");
    check("FROM a AS x\nFROM b AS y\nARG V=x\nFROM y\nCOPY --from=$V . /", "0:a 1:b 2:#1");
    check("ARG V=x\nFROM a AS x\nFROM b\nCOPY --from=${V} . /", "0:a 1:b");
    check("FROM a AS x\nFROM b\nENV A=x\nENV A=y B=$A\nCOPY --from=$B . /", "0:a 1:b");
    check("FROM a AS p-arm/v7\nFROM p-arm/v7", "0:a 1:#0");
    check("ARG N=Abc\nFROM a AS $N\nFROM abc", "0:a 1:#0");
    check("FROM a AS x\nCOPY --from=$NO . /\nFROM b", "1:b");
    check("FROM a AS x\nCOPY --from=x . /\nCOPY --from=9 . /\nCOPY --from=y . /\nFROM b AS y", "1:b");
    check("FROM a AS x\nFROM a AS y\nCOPY --from=x . /\nFROM b\nCOPY --from=y . /", "0:a 1:a 2:b");
}

#[test]
fn what_cannot_be_planned() {
    let check = |text: &str, want: &str| {
        let got = show(&plan_of(text, None, &[]));
        assert!(got.contains(want), "{text}: {got}");
    };
    check("ARG A", "no FROM");
    check("FROM $NO", "line 1: FROM: base image name is empty");
    check("FROM a\nFROM ${NO:?unset}\nFROM b", "line 2: FROM: can't expand ${NO:?unset}: NO: unset");
    check("ARG A=${\nFROM a", "line 1: ARG: can't expand");
    check("FROM --platform=$NO a", "invalid platform");
    check("FROM --platform=x/y/z/w a\nFROM b", "invalid platform");
    check("ARG N=1\nFROM a AS $N", "invalid stage name: 1");
    check("FROM a\nCOPY --from=0 . /", "line 2: COPY: circular dependency");
    check("FROM a AS x\nCOPY --from=x . /", "circular dependency");
    check("FROM a\nCOPY --from=1 . /\nFROM b\nFROM c\nCOPY --from=0 . /", "needs to be defined before");
    check("FROM a AS x\nCOPY --from=y . /\nFROM b AS y\nFROM x", "line 2: COPY: stage y needs to be defined before");
    check("FROM a AS x\nCOPY --from=y . /\nFROM b AS y\nCOPY --from=x . /", "line 2: COPY: circular dependency");
    check("FROM a AS x\nCOPY --from=1 . /\nFROM x", "line 2: COPY: circular dependency");
    check(
        "FROM a AS x\nCOPY --from=1 . /\nFROM b AS y\nCOPY --from=2 . /\nFROM x",
        "line 4: COPY: circular dependency: stage 2",
    );
    check("FROM a AS x\nONBUILD COPY --from=z . /\nFROM x AS y\nFROM y AS z", "line 3: COPY: circular dependency");
    check(
        "FROM a\nRUN --mount=from=y,target=/m x\nFROM b AS y\nFROM c\nCOPY --from=0 a b",
        "needs to be defined before",
    );
    check("FROM a\nCOPY --from=1 . /", "no stage has the number 1");
    check("FROM a\nCOPY --from=-1 . /", "no stage has the number -1");
    check("FROM a\nCOPY --from=$NO . /", "line 2: COPY: --from=$NO is empty");
    check(
        "FROM a AS x\nONBUILD FOO\nFROM x",
        "line 3: FROM: can't parse ONBUILD trigger \"FOO\": unknown instruction: FOO",
    );
}

/// The images that are asked for, of needed stages alone, and where they are named.
#[test]
fn images() {
    let check = |text: &str, want: &str| {
        let plan = plan_of(text, None, &[]).unwrap();
        let shown: Vec<String> = plan.images.iter().map(|i| format!("{} {} {}", i.line, i.keyword, i.name)).collect();
        assert_eq!(shown.join(", "), want, "{text}");
    };
    check("FROM a", "1 FROM a");
    check("FROM scratch\nCOPY --from=scratch a b", "");
    check("FROM a AS x\nFROM b\nCOPY --from=c . /\nRUN --mount=from=d,target=/m y", "2 FROM b, 3 COPY c, 4 RUN d");
    check(
        "FROM a AS x\nFROM b\nRUN --mount=from=x,target=/m y\nRUN --mount=from=0,target=/m y",
        "1 FROM a, 2 FROM b, 4 RUN 0",
    );
    check("FROM a AS x\nONBUILD COPY --from=c . /\nFROM x", "1 FROM a, 3 COPY c");
}

#[test]
fn targets() {
    let text = "FROM a AS One\nFROM b AS two\nCOPY --from=one . /\nFROM c AS three";
    let check = |target: &str, want: &str| assert_eq!(show(&plan_of(text, Some(target), &[])), want, "{target}");
    check("ONE", "0:a");
    check("two", "0:a 1:b");
    check("three", "2:c");
    check("four", "target stage not found: four");
    let hint = plan_of(text, Some("0"), &[]).unwrap_err();
    assert_eq!(hint.get_hint(), Some("stages: one two three"));
}

#[test]
fn global_variables() {
    let check =
        |text: &str, args: &[(&str, &str)], want: &str| assert_eq!(show(&plan_of(text, None, args)), want, "{text}");
    check("ARG V=1\nFROM a:$V", &[], "0:a:1");
    check("ARG V=1\nFROM a:$V", &[("V", "2")], "0:a:2");
    check("ARG V\nFROM a:${V:-3}", &[], "0:a:3");
    check("ARG V=1 W=$V-x\nARG X=${W}y\nFROM a:$X", &[], "0:a:1-xy");
    check("ARG V=1\nARG V\nFROM a:$V", &[], "0:a:1");
    check("ARG V=${\nFROM a:$V", &[("V", "2")], "0:a:2");
    check("FROM a:$TARGETARCH-$BUILDOS-${TARGETVARIANT:-none}-$TARGETSTAGE", &[], "0:a:amd64-linux-none-default");
    check("FROM a:$TARGETARCH", &[("TARGETARCH", "x")], "0:a:x");
    check("FROM a:$V", &[("V", "2")], "0:a:");
    check("FROM 'a'\\:\"b\"", &[], "0:a:b");
    let plan = plan_of("FROM --platform=$BUILDPLATFORM a", None, &[]).unwrap();
    assert_eq!(plan.stages[0].platform, Some(Platform::linux("amd64", "")));
}

#[test]
fn unconsumed_arguments() {
    let check = |text: &str, want: &[&str]| {
        let args = [("A", "1"), ("http_proxy", "p"), ("B", "2")];
        assert_eq!(plan_of(text, None, &args).unwrap().unconsumed, want, "{text}");
    };
    check("FROM a", &["A", "B"]);
    check("ARG A\nFROM a\nARG B=1", &[]);
    check("FROM a AS x\nARG A B\nFROM b", &[]);
    check("FROM a\nONBUILD ARG A=1\nENV B=1", &["B"]);
}
