"""The templates that are there without any of the user's, under the names that manifests refer to.

Go's language, so that users' own definitions may include and replace them; `notify/render.py` puts them below
the user's. Source of the names: contracts, log and notification, section 7; the texts are ours.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["DEFAULT_TEMPLATES", "LANGUAGES"]

DEFAULT_TEMPLATES = """
{{- define "nm.default.subject" -}}
{{ range $i, $name := stringSlice "firing" "resolved" -}}
{{- $alerts := $.Alerts.Firing }}{{ if eq $name "resolved" }}{{ $alerts = $.Alerts.Resolved }}{{ end -}}
{{- if $alerts }}[{{ translate $name }}:{{ len $alerts }}] {{ end }}
{{- end }}
{{- with .CommonLabels.alertname }}{{ . }}{{ else }}{{ len .Alerts }} {{ translate "alerts" }}{{ end }}
{{- range (.CommonLabels.Remove (stringSlice "alertname" "receiver")).SortedPairs }}
{{- print " " .Name "=" .Value }}
{{- end }}
{{- end -}}

{{- define "nm.default.message" -}}
{{ with message . }}{{ . }} {{ end -}}
({{ range $i, $pair := (.Labels.Remove (stringSlice "receiver")).SortedPairs }}{{ if $i }}, {{ end -}}
{{ $pair.Name }}={{ $pair.Value }}{{ end }})
{{- end -}}

{{- define "nm.default.message.cn" -}}
{{ with .MessageCN }}{{ . }} {{ end -}}
({{ range $i, $pair := (.Labels.Remove (stringSlice "receiver")).SortedPairs }}{{ if $i }}, {{ end -}}
{{ $pair.Name }}={{ $pair.Value }}{{ end }})
{{- end -}}

{{- define "nm.default.text" -}}
{{ template "nm.default.subject" . }}
{{ range .Alerts }}- [{{ translate .Status }}] {{ template "nm.default.message" . }}
{{ end }}
{{- end -}}

{{- define "nm.default.markdown" -}}
### {{ template "nm.default.subject" . }}
{{ range .Alerts }}- **{{ translate .Status }}** {{ template "nm.default.message" . }}
{{ end }}
{{- end -}}

{{- define "nm.default.html" -}}
<h3>{{ template "nm.default.subject" . }}</h3>
<ul>
{{- range .Alerts }}
<li><b>{{ translate .Status }}</b> {{ template "nm.default.message" . }}
{{- with .GeneratorURL }} <a href="{{ . }}">{{ translate "source" }}</a>{{ end }}</li>
{{- end }}
</ul>
{{ end -}}

{{- define "nm.feishu.text" }}{{ template "nm.default.text" . }}{{ end -}}

{{- define "nm.feishu.post" -}}
{"zh_cn":{"title":"
{{- with .Alerts.Firing }}[{{ translate "firing" }}:{{ len . }}] {{ end }}
{{- with .Alerts.Resolved }}[{{ translate "resolved" }}:{{ len . }}] {{ end }}
{{- with .CommonLabels.alertname }}{{ escape . }}{{ else -}}
{{ len .Alerts }} {{ translate "alerts" }}{{ end -}}
","content":[
{{- range $i, $alert := .Alerts }}{{ if $i }},{{ end -}}
[{"tag":"text","text":"[{{ translate $alert.Status }}] {{ with message $alert }}{{ escape . }} {{ end }}(
{{- range $j, $pair := ($alert.Labels.Remove (stringSlice "receiver")).SortedPairs }}{{ if $j }}, {{ end -}}
{{ escape $pair.Name }}={{ escape $pair.Value }}{{ end }})"}]
{{- end }}]}}
{{- end -}}

{{- define "nm.subject" }}{{ template "nm.default.subject" . }}{{ end -}}
{{- define "nm.html" }}{{ template "nm.default.html" . }}{{ end -}}
"""
"""Definitions in Go's language. `webhook.default.message` and `nm.default.history`, which are the data as
JSON, are made by `notify/render.py`."""

LANGUAGES: Mapping[str, Mapping[str, str]] = {
    "english": {"firing": "FIRING", "resolved": "RESOLVED"},
    "zh-cn": {"firing": "告警中", "resolved": "已恢复", "alerts": "条告警", "source": "来源"},
}
"""Lower-cased language -> words. Packs of the user's add to these."""
