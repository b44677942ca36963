"""Prints the results of `gpu.py` as a table."""


def print_table(sections):
    """Prints training steps with their largest kernels, then all else, and one line a section."""
    for row in rows_of(sections, "loops"):
        name = f"{row['model']} {row['backbone']} {row['batch']} {row['amp']}"
        for way in ("default", "whole"):
            _print_step(f"{name} {way}", row.get(way, {}))
    for row in rows_of(sections, "settings"):
        if "step_us" in row:
            times = {k: f"{v['median']:.0f} us" for k, v in row["step_us"].items()}
            print(row["model"], row["backbone"], row["batch"], times)
    for row in rows_of(sections, "nets"):
        if rate := row.get("graph_images_per_s") or row.get("images_per_s"):
            name = f"{row['backbone']} {row['batch']} {row['compiler']}"
            print(f"{name}: {1e6 * row['batch'] / rate:.0f} us, {row.get('peak_MiB')} MiB")
    for row in rows_of(sections, "tune"):
        for kernel, found in row.get("kernels", {}).items():
            print(
                f"{kernel}, {row['problem']}: {found['first_us']:.1f} us, tuned "
                f"{found['best_us']:.1f} us, {found['candidates']} candidates"
            )
    for row in (*rows_of(sections, "ops"), *rows_of(sections, "data")):
        if "ms" in row:
            case = row.get("problem") or f"batch={row['batch']}"
            us = (f"{name} {1e3 * ms['median']:.1f}" for name, ms in row["ms"].items())
            print(f"{row['op']}, {case}, us: {', '.join(us)}")
    for row in rows_of(sections, "export"):
        if "latency_us" in row:
            print(row["backbone"], row["latency_us"], row["largest_difference"])
    for name in ("seeds", "checks"):
        for row in rows_of(sections, name):
            print(name, {key: value for key, value in row.items() if key != "log"})
    for name, section in sections.items():
        print(f"{name}: {describe(section)}")


def _print_step(name, found):
    if "step_us" not in found:
        return
    time_us, gain = found["step_us"]["median"], found["speed_up"]["median"]
    print(
        f"{name}: {time_us:.0f} us, replay {found['replay_us'] or 0:.0f} us, "
        f"{found['kernels']} kernels, {gain:.1f}x plain, {found['peak_MiB']} MiB {found['reason']}"
    )
    for kernel, count, us in found["largest"]:
        print(f"    {us:8.1f} us  {count:3d}  {kernel[:80]}")


def describe(section):
    """Returns a line on a section: number of rows, seconds, failures."""
    rows = section["rows"]
    text = f"{len(rows)} rows in {section['seconds']:.0f} s"
    if left_out := sum("left_out" in row for row in rows):
        text += f", {left_out} left out"
    failures = failures_of(section)
    return f"{text}; FAILED: {failures[0]}" if failures else text


def failures_of(section):
    """Returns what went wrong in a section: its process, its rows, its tests."""
    found = [section["failed"]] if section["failed"] else []
    for row in section["rows"]:
        if row.get("failed"):
            found.append(str(row["failed"]))
        if row.get("passed") is False:
            found.append(f"tests: {row.get('names') or row.get('stopped') or row.get('log', '')}")
    return found


def rows_of(sections, name):
    """Returns the rows of a section, none if it did not run."""
    return sections.get(name, {}).get("rows", [])
