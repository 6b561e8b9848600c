{{- /* A value in TOML. Numbers stay integers here: `toToml` writes 65536 as 65536.0, which is none.
JSON's strings are TOML's, except for the character 0x7f. */ -}}
{{- define "usher.tomlValue" -}}
{{- if kindIs "map" . -}}
{{- $parts := list -}}
{{- range $key, $value := . -}}
{{- $parts = append $parts (printf "%s = %s" (include "usher.tomlKey" $key) (include "usher.tomlValue" $value)) -}}
{{- end -}}
{ {{ join ", " $parts }} }
{{- else if kindIs "slice" . -}}
{{- $parts := list -}}
{{- range . -}}{{- $parts = append $parts (include "usher.tomlValue" .) -}}{{- end -}}
[{{ join ", " $parts }}]
{{- else -}}
{{- toRawJson . | replace "\x7f" "\\u007f" -}}
{{- end -}}
{{- end -}}

{{- define "usher.tomlKey" -}}
{{- if regexMatch "^[A-Za-z0-9_-]+$" . -}}{{ . }}{{- else -}}{{ toRawJson . | replace "\x7f" "\\u007f" }}{{- end -}}
{{- end -}}

{{- /* The lines of one table. Its inner tables are written inline. */ -}}
{{- define "usher.tomlLines" -}}
{{- range $key, $value := . }}
{{ include "usher.tomlKey" $key }} = {{ include "usher.tomlValue" $value }}
{{- end }}
{{- end -}}

{{- /* A whole file: the single keys before the first table. */ -}}
{{- define "usher.toml" -}}
{{- $single := dict -}}
{{- range $key, $value := . -}}
{{- if not (or (kindIs "map" $value) (and (kindIs "slice" $value) $value (kindIs "map" (first (default (list "") $value))))) -}}
{{- $_ := set $single $key $value -}}
{{- end -}}
{{- end -}}
{{- include "usher.tomlLines" $single | trim }}
{{- range $key, $value := . }}
{{- if not (hasKey $single $key) }}
{{- if kindIs "map" $value }}

[{{ include "usher.tomlKey" $key }}]
{{- include "usher.tomlLines" $value }}
{{- else }}
{{- range $value }}

[[{{ include "usher.tomlKey" $key }}]]
{{- include "usher.tomlLines" . }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- /* The configuration as JSON. Values that the user left out come from the rest of the chart's
values. The chart cannot read an existing ConfigMap, so there all of it comes from them. */ -}}
{{- define "usher.config" -}}
{{- if .Values.configText -}}
{{- $parsed := fromToml .Values.configText -}}
{{- if hasKey $parsed "Error" -}}{{- fail (printf "configText: %s" $parsed.Error) -}}{{- end -}}
{{- toRawJson $parsed -}}
{{- else -}}
{{- $config := deepCopy (.Values.config | default dict) -}}
{{- $config = merge $config (dict "state_dir" "/var/lib/usher") -}}

{{- $listeners := $config.listener | default (list (dict)) -}}
{{- $first := first $listeners -}}
{{- if not $first.address -}}{{- $_ := set $first "address" (printf "[::]:%v" .Values.ports.listener) -}}{{- end -}}
{{- if not (or $first.certificates $first.plain) -}}
{{- /* With `acme`, a Secret is optional: it serves until the first certificate is issued. */ -}}
{{- if and .Values.tls.enabled (or (not $first.acme) (include "usher.tlsSecret" .)) -}}
{{- $_ := set $first "certificates" (list (dict "cert" "/etc/usher/tls/tls.crt" "key" "/etc/usher/tls/tls.key")) -}}
{{- else if not $first.acme -}}
{{- $_ := set $first "plain" true -}}
{{- end -}}
{{- end -}}
{{- $_ := set $config "listener" (prepend (rest $listeners) $first) -}}

{{- $admin := merge ($config.admin | default dict) (dict "address" (printf "[::]:%v" .Values.ports.admin)) -}}
{{- if and .Values.admin.existingSecret.name (not $admin.token_env) (not $admin.token_file) -}}
{{- $_ := set $admin "token_env" "USHER_ADMIN_TOKEN" -}}
{{- end -}}
{{- $_ := set $config "admin" $admin -}}

{{- $_ := set $config "drain" (merge ($config.drain | default dict) (pick .Values.drain "delay" "window")) -}}

{{- with .Values.redis -}}
{{- if .url -}}
{{- $store := dict "url" .url -}}
{{- if .username -}}{{- $_ := set $store "username" .username -}}{{- end -}}
{{- if .existingSecret.name -}}
{{- if .existingSecret.passwordKey -}}{{- $_ := set $store "password_env" "USHER_REDIS_PASSWORD" -}}{{- end -}}
{{- if .existingSecret.sentinelPasswordKey -}}{{- $_ := set $store "sentinel_password_env" "USHER_SENTINEL_PASSWORD" -}}{{- end -}}
{{- end -}}
{{- if .tls.existingSecret -}}{{- $_ := set $store "ca_file" (printf "/etc/usher/redis/%s" .tls.caKey) -}}{{- end -}}
{{- $_ := set $config "store" (merge ($config.store | default dict) $store) -}}
{{- end -}}
{{- end -}}

{{- if .Values.contextKeys.existingSecret -}}
{{- $files := list -}}
{{- range .Values.contextKeys.files -}}{{- $files = append $files (printf "/etc/usher/keys/%s" .) -}}{{- end -}}
{{- $_ := set $config "context" (merge ($config.context | default dict) (dict "key_files" $files)) -}}
{{- end -}}
{{- toRawJson $config -}}
{{- end -}}
{{- end -}}

{{- /* The text of usher.toml. */ -}}
{{- define "usher.configText" -}}
{{- if .Values.configText -}}
{{- .Values.configText -}}
{{- else -}}
{{- include "usher.toml" (include "usher.config" . | fromJson) -}}
{{- end -}}
{{- end -}}

{{- define "usher.configPath" -}}
/etc/usher/config/{{ ternary .Values.existingConfigMap.key "usher.toml" (not (empty .Values.existingConfigMap.name)) }}
{{- end -}}

{{- /* Whole seconds of a duration like "90s", rounded up. */ -}}
{{- define "usher.seconds" -}}
{{- $number := regexFind "[0-9]+" (toString .) | int -}}
{{- $unit := regexFind "[a-z]+" (toString .) -}}
{{- if eq $unit "ms" -}}{{- div (add $number 999) 1000 -}}
{{- else -}}{{- mul $number (get (dict "s" 1 "m" 60 "h" 3600 "d" 86400) $unit | default 1) -}}
{{- end -}}
{{- end -}}

{{- /* Whole seconds of a duration with several parts, like "2160h30m". */ -}}
{{- define "usher.sumOfSeconds" -}}
{{- $sum := 0 -}}
{{- range regexFindAll "[0-9]+[a-z]+" . -1 -}}{{- $sum = add $sum (include "usher.seconds" .) -}}{{- end -}}
{{- $sum -}}
{{- end -}}

{{- /* Seconds that a stop needs: a sleep before it, delay, window, and the last close handshakes. */ -}}
{{- define "usher.stopSeconds" -}}
{{- $config := include "usher.config" . | fromJson -}}
{{- $drain := $config.drain | default dict -}}
{{- $close := ($config.keepalive | default dict).close_timeout | default "5s" -}}
{{- $sleep := ((((.Values.lifecycle | default dict).preStop | default dict).sleep | default dict).seconds | default 0) | int -}}
{{- add $sleep (include "usher.seconds" ($drain.delay | default "0s")) (include "usher.seconds" ($drain.window | default "30s")) (include "usher.seconds" $close) -}}
{{- end -}}

{{- define "usher.graceSeconds" -}}
{{- $needed := include "usher.stopSeconds" . | int -}}
{{- if kindIs "invalid" .Values.terminationGracePeriodSeconds -}}
{{- add $needed .Values.drain.margin -}}
{{- else -}}
{{- if lt (int .Values.terminationGracePeriodSeconds) $needed -}}
{{- fail (printf "terminationGracePeriodSeconds is %d, but a stop takes %d: a preStop sleep, [drain] delay and window, and keepalive.close_timeout together. Raise it, shorten the drain, or leave it empty" (int .Values.terminationGracePeriodSeconds) $needed) -}}
{{- end -}}
{{- int .Values.terminationGracePeriodSeconds -}}
{{- end -}}
{{- end -}}

{{- /* A list, as JSON, of the environment variables that the configuration reads. */ -}}
{{- define "usher.namedEnv" -}}
{{- $names := list -}}
{{- if kindIs "map" . -}}
{{- range $key, $value := . -}}
{{- if and (hasSuffix "_env" $key) (kindIs "string" $value) -}}
{{- $names = append $names $value -}}
{{- else -}}
{{- $names = concat $names (include "usher.namedEnv" $value | fromJsonArray) -}}
{{- end -}}
{{- end -}}
{{- else if kindIs "slice" . -}}
{{- range . -}}{{- $names = concat $names (include "usher.namedEnv" . | fromJsonArray) -}}{{- end -}}
{{- end -}}
{{- toRawJson (uniq $names) -}}
{{- end -}}

{{- /* The environment of the container. */ -}}
{{- define "usher.env" -}}
{{- $env := list -}}
{{- range .Values.secretEnv -}}
{{- $env = append $env (dict "name" .name "valueFrom" (dict "secretKeyRef" (dict "name" .secretName "key" .secretKey))) -}}
{{- end -}}
{{- with .Values.admin.existingSecret -}}
{{- if .name -}}
{{- $env = append $env (dict "name" "USHER_ADMIN_TOKEN" "valueFrom" (dict "secretKeyRef" (dict "name" .name "key" .key))) -}}
{{- end -}}
{{- end -}}
{{- with .Values.redis.existingSecret -}}
{{- if and .name .passwordKey -}}
{{- $env = append $env (dict "name" "USHER_REDIS_PASSWORD" "valueFrom" (dict "secretKeyRef" (dict "name" .name "key" .passwordKey))) -}}
{{- end -}}
{{- if and .name .sentinelPasswordKey -}}
{{- $env = append $env (dict "name" "USHER_SENTINEL_PASSWORD" "valueFrom" (dict "secretKeyRef" (dict "name" .name "key" .sentinelPasswordKey))) -}}
{{- end -}}
{{- end -}}
{{- toRawJson (concat $env (.Values.extraEnv | default list)) -}}
{{- end -}}
