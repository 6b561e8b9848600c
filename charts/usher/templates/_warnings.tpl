{{- /* The warnings of the notes, as a list in JSON. Each names the value to change. */ -}}
{{- define "usher.warnings" -}}
{{- $config := include "usher.config" . | fromJson -}}
{{- $isReadable := not .Values.existingConfigMap.name -}}
{{- $isShared := ne (($config.store | default dict).url | default "memory") "memory" -}}
{{- $isPlain := eq (include "usher.isPlain" .) "true" -}}
{{- $several := eq (include "usher.hasSeveralPods" .) "true" -}}
{{- $warnings := list -}}
{{- if and $several $isReadable (not $isShared) -}}
{{- if eq .Values.service.sessionAffinity "ClientIP" -}}
{{- $warnings = append $warnings "Several pods without a shared store: revocations and limits hold for one pod, and a ticket works only from the address that asked for it. Set redis.url." -}}
{{- else -}}
{{- $warnings = append $warnings "Several pods without a shared store: a ticket works only at the pod that issued it, and revocations and limits hold for one pod. Set redis.url." -}}
{{- end -}}
{{- end -}}
{{- $context := $config.context | default dict -}}
{{- if and $isReadable (not (or $context.key_files $context.secret_env $context.secret_file)) -}}
{{- $warnings = append $warnings "Each pod makes its own key for the signed context and loses it. Backends that verify it need contextKeys.existingSecret." -}}
{{- end -}}
{{- if and $config.acme (not $isShared) (eq ($config.state_dir | default "") "/var/lib/usher") -}}
{{- $warnings = append $warnings "ACME without a shared store: each pod orders certificates of its own and loses them, and authorities limit orders. With several pods, the authority can reach one that did not order. Set redis.url." -}}
{{- end -}}
{{- if $isPlain -}}
{{- $warnings = append $warnings "The listener is plain HTTP: let only the proxy that ends TLS reach it." -}}
{{- end -}}
{{- with .Values.image -}}
{{- if not .digest -}}
{{- $warnings = append $warnings "The image has a tag and no digest: another image can come under the same tag. Set image.digest." -}}
{{- else if .tag -}}
{{- $warnings = append $warnings "image.tag is not used, because image.digest is set." -}}
{{- end -}}
{{- end -}}
{{- $warnings = concat $warnings (include "usher.warningsOfPods" . | fromJsonArray) -}}
{{- $warnings = concat $warnings (include "usher.warningsOfNetwork" (dict "root" . "isPlain" $isPlain) | fromJsonArray) -}}
{{- if not $isReadable -}}
{{- $warnings = append $warnings "The chart cannot read an existing ConfigMap: ports, drain and tls of the values must agree with it." -}}
{{- end -}}
{{- toRawJson $warnings -}}
{{- end -}}

{{- /* How many pods there are, and how many can be away. */ -}}
{{- define "usher.warningsOfPods" -}}
{{- $warnings := list -}}
{{- $pods := int (ternary .Values.autoscaling.minReplicas .Values.replicaCount (.Values.autoscaling.enabled | default false)) -}}
{{- $several := eq (include "usher.hasSeveralPods" .) "true" -}}
{{- if and (eq $pods 0) (not $several) -}}
{{- $warnings = append $warnings "replicaCount is 0: no pod serves clients." -}}
{{- else if not $several -}}
{{- $warnings = append $warnings "One pod: an eviction interrupts every session at once. values-ha.yaml has values for three." -}}
{{- end -}}
{{- with .Values.podDisruptionBudget -}}
{{- if and .enabled $pods -}}
{{- /* Kubernetes rounds a share up. */ -}}
{{- $kept := .minAvailable | default 0 | int -}}
{{- if hasSuffix "%" (toString .minAvailable) -}}
{{- $kept = div (add (mul (trimSuffix "%" .minAvailable | int) $pods) 99) 100 -}}
{{- end -}}
{{- $isFixed := has (toString .maxUnavailable) (list "0" "0%") -}}
{{- if or $isFixed (ge (int $kept) $pods) -}}
{{- $warnings = append $warnings (printf "podDisruptionBudget: no pod can be evicted, so no machine can be drained. Let minAvailable keep fewer than %d, or maxUnavailable be at least 1." $pods) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $update := (.Values.strategy | default dict).rollingUpdate | default dict -}}
{{- if and .Values.hostNetwork (has (toString $update.maxUnavailable) (list "0" "0%")) (ne .Values.strategy.type "Recreate") -}}
{{- $warnings = append $warnings "hostNetwork: two pods cannot have the same ports on a machine, so an update waits for a machine without a pod. With as many pods as machines set strategy.rollingUpdate.maxSurge=0 and maxUnavailable=1." -}}
{{- end -}}
{{- with .Values.autoscaling -}}
{{- if .enabled -}}
{{- if not .metrics -}}
{{- $warnings = append $warnings (printf "The autoscaler needs an adapter that serves the metric %s for pods (docs/kubernetes-scaling.md)." .metric) -}}
{{- end -}}
{{- $warnings = append $warnings "A scale-down does not ask the PodDisruptionBudget: each pod that it removes closes its sessions over [drain] window." -}}
{{- end -}}
{{- end -}}
{{- toRawJson $warnings -}}
{{- end -}}

{{- /* How pods are reached, and what they reach. Argument: dict with "root" and "isPlain". */ -}}
{{- define "usher.warningsOfNetwork" -}}
{{- $values := .root.Values -}}
{{- $warnings := list -}}
{{- if and $values.httpRoute.enabled (not .isPlain) (not $values.httpRoute.backendTLS.enabled) -}}
{{- $warnings = append $warnings "The listener has TLS, but the Gateway of httpRoute speaks plain HTTP to it. Set httpRoute.backendTLS, or tls.enabled=false." -}}
{{- end -}}
{{- $annotations := merge (dict) ($values.ingress.annotations | default dict) ($values.service.annotations | default dict) -}}
{{- if and $values.ingress.enabled (not .isPlain) (not (regexMatch "backend-protocol|upstream-protocol|serversscheme|server-ssl|secure-backends|ssl-passthrough" (keys $annotations | join " "))) -}}
{{- $warnings = append $warnings "The listener has TLS, but many Ingress controllers speak plain HTTP to it. Set the annotation of yours in ingress.annotations, such as nginx.ingress.kubernetes.io/backend-protocol: HTTPS, or tls.enabled=false." -}}
{{- end -}}
{{- $isMeasured := or $values.podMonitor.enabled $values.serviceMonitor.enabled -}}
{{- with $values.networkPolicy -}}
{{- if and .enabled $values.hostNetwork -}}
{{- $warnings = append $warnings "hostNetwork: most networks do not apply a network policy to pods in the network of the machine, so networkPolicy protects nothing there." -}}
{{- else if .enabled -}}
{{- if and .egress.enabled (not .egress.rules) (not .egress.allow) -}}
{{- $warnings = append $warnings "The network policy lets pods reach DNS alone: add upstreams, Redis and issuers to networkPolicy.egress.allow." -}}
{{- end -}}
{{- if and $isMeasured (not .adminFrom) -}}
{{- $warnings = append $warnings "The network policy keeps Prometheus from the admin port: set networkPolicy.adminFrom." -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and $isMeasured (not $values.admin.existingSecret.name) -}}
{{- $warnings = append $warnings "Prometheus has no token for /metrics: set admin.existingSecret." -}}
{{- end -}}
{{- toRawJson $warnings -}}
{{- end -}}
