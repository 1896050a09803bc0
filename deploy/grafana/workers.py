"""Rows of the dashboard: recovery, workers, providers."""

from __future__ import annotations

from panels import JOB, Panel, Row, counted, mean, quantile, quantiles, total

ACTIVITIES = f'{JOB}, worker_type="ActivityWorker"'

RECOVERY = Row(
    "Recovery",
    [
        Panel(
            "Findings",
            "What runs of the reconciler found within the window; healthy is counted again and again.",
            "none",
            ((total("subject, finding", "nightmill_reconciler_findings_total"), "{{subject}} {{finding}}"),),
        ),
        Panel(
            "Repairs",
            "Repairs within the window, by how far they came. asked without done: one was interrupted.",
            "none",
            (
                (
                    total("action, state", "nightmill_reconciler_repairs_total", JOB + ', state!="asked"'),
                    "{{action}} {{state}}",
                ),
            ),
        ),
        Panel(
            "Runs",
            "How often the reconciler, the expiry sweep and the audit ended within the window.",
            "none",
            ((total("workflow", "nightmill_reconciler_duration_seconds_count"), "{{workflow}}"),),
        ),
        Panel(
            "Duration of runs",
            "Mean over the window.",
            "s",
            (
                (
                    mean("nightmill_reconciler_duration_seconds", "workflow"),
                    "{{workflow}}",
                ),
            ),
        ),
        Panel(
            "Audit",
            "Provider batches that audits listed within the window.",
            "none",
            ((f"sum({counted('nightmill_audit_listed_total')}) or vector(0)", "listed"),),
        ),
        Panel(
            "Audit's findings",
            "Provider batches with which something is wrong, and keys that could not be asked with.",
            "none",
            (
                (total("kind", "nightmill_audit_findings_total"), "{{kind}}"),
                (f"sum({counted('nightmill_audit_failures_total')}) or vector(0)", "keys"),
            ),
        ),
    ],
)

WORKERS = Row(
    "Workers",
    [
        Panel(
            "Memory",
            "Of each worker's process, without the slicing programs.",
            "bytes",
            ((f"nightmill_worker_memory_bytes{{{JOB}}}", "{{instance}}"),),
            limits=(5e8, 1e9),
        ),
        Panel(
            "Open descriptors",
            "Files, sockets and pipes. Linux gives a process 1,024 unless told otherwise.",
            "none",
            ((f"nightmill_worker_open_descriptors{{{JOB}}}", "{{instance}}"),),
        ),
        Panel(
            "Free slots",
            "For activities, by task queue. None for long: more workers, or activities that hang.",
            "none",
            (
                (
                    f"sum by (task_queue) (temporal_worker_task_slots_available{{{ACTIVITIES}}})",
                    "{{task_queue}}",
                ),
            ),
        ),
        Panel(
            "Workflow tasks wait",
            "From a task's schedule to its start, 95 %, by queue. Over 1 s: too few workers.",
            "s",
            (
                (
                    quantile(0.95, "temporal_workflow_task_schedule_to_start_latency_seconds", "task_queue"),
                    "{{task_queue}}",
                ),
            ),
        ),
        Panel(
            "Activities wait",
            "The same of activities. A sweep of many documents waits by design.",
            "s",
            ((quantile(0.95, "temporal_activity_schedule_to_start_latency_seconds", "task_queue"), "{{task_queue}}"),),
        ),
        Panel(
            "Time of activities",
            "95 %, the ten slowest.",
            "s",
            (
                (
                    f"topk(10, {quantile(0.95, 'temporal_activity_execution_latency_seconds', 'activity_type')})",
                    "{{activity_type}}",
                ),
            ),
        ),
        Panel(
            "Failed activities",
            "By bugs and final refusals; what passes by itself is not counted.",
            "none",
            ((total("activity_type", "temporal_activity_execution_failed_total"), "{{activity_type}}"),),
        ),
        Panel(
            "Failed workflow tasks",
            "Code that does not replay (NonDeterminismError) or has a bug. Should be empty.",
            "none",
            (
                (
                    total("workflow_type, failure_reason", "temporal_workflow_task_execution_failed_total"),
                    "{{workflow_type}} {{failure_reason}}",
                ),
            ),
        ),
        Panel(
            "Workflows",
            "That came to their end within the window, by type.",
            "none",
            ((total("workflow_type", "temporal_workflow_completed_total"), "{{workflow_type}}"),),
        ),
        Panel(
            "Cached workflows",
            "Kept in memory between their tasks; NIGHTMILL_WORKER__MAX_CACHED_WORKFLOWS bounds them.",
            "none",
            ((f"sum by (instance) (temporal_sticky_cache_size{{{JOB}}})", "{{instance}}"),),
        ),
        Panel(
            "Requests to Temporal",
            "A second, and those that failed. NOT_FOUND is an answer, not a fault.",
            "reqps",
            (
                (f"sum(rate(temporal_request_total{{{JOB}}}[$window]))", "all"),
                (
                    f"sum by (status_code) (rate(temporal_request_failure_total{{{JOB}}}[$window]))",
                    "failed {{status_code}}",
                ),
            ),
        ),
        Panel(
            "Time of requests to Temporal",
            "95 % of the requests, long polls left out.",
            "s",
            (
                (
                    quantile(0.95, "temporal_request_latency_seconds", "job"),
                    "95 %",
                ),
            ),
        ),
    ],
)

HTTP = "http_client_request_duration_seconds"
PROVIDERS = Row(
    "Providers",
    [
        Panel(
            "Requests",
            "To each provider, within the window, by status. Without a status: no answer.",
            "none",
            (
                (
                    total("server_address, http_response_status_code", f"{HTTP}_count"),
                    "{{server_address}} {{http_response_status_code}}",
                ),
            ),
        ),
        Panel(
            "Errors",
            "The share of requests that failed, by provider. 429 is included: quota.",
            "percentunit",
            (
                (
                    f"""sum by (server_address) (rate({HTTP}_count{{{JOB}, error_type!=""}}[$window]))"""
                    f" / sum by (server_address) (rate({HTTP}_count{{{JOB}}}[$window]))",
                    "{{server_address}}",
                ),
            ),
        ),
        Panel("Latency", "With the reading of the answer: median and 95 %.", "s", quantiles(HTTP, "server_address")),
    ],
)
