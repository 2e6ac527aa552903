#!/usr/bin/env bash
# Builds stories15m_int4_seq256_bm1684x_1dev_no-sample: 38 steps, one after the other, each in a folder of its own.
# `hf2bmodel build` runs the same commands, in parallel, and only those whose result would change.
set -euo pipefail

exporter() { env PATH=/opt/hf2bmodel/.venv/bin:"$PATH" "$@"; }
compiler() { env PATH=/opt/hf2bmodel/.venv-tpu-mlir/bin:"$PATH" OMP_NUM_THREADS=1 "$@"; }
begin() { echo "== $1"; rm -rf "work/$1"; mkdir -p "work/$1"; cd "work/$1"; }
end() { cd ../..; }

mkdir -p /builds/stories15m_int4_seq256_bm1684x_1dev_no-sample
cd /builds/stories15m_int4_seq256_bm1684x_1dev_no-sample

begin trace
exporter python -m exporters trace --model /models/stories15m --seq-length 256 --devices 1
end

begin parity
exporter python \
  -m exporters parity \
  --model /models/stories15m \
  --graphs .. \
  --prompt 'Once upon a time' \
  --seq-length 256 \
  --devices 1 \
  --positions 81
end

begin transform.embedding
compiler python3 -I /opt/hf2bmodel/compile/rebind.py shrink ../trace/embedding.onnx 32000
compiler model_transform.py \
  --model_name embedding \
  --model_def small.onnx \
  --mlir embedding.mlir \
  --do_onnx_sim= \
  --not_inference
compiler python3 -I /opt/hf2bmodel/compile/rebind.py seal embedding ../trace/embedding.onnx small.npz
end

begin transform.embedding_cache
compiler python3 -I /opt/hf2bmodel/compile/rebind.py shrink ../trace/embedding_cache.onnx 32000
compiler model_transform.py \
  --model_name embedding_cache \
  --model_def small.onnx \
  --mlir embedding_cache.mlir \
  --do_onnx_sim= \
  --not_inference
compiler python3 \
  -I /opt/hf2bmodel/compile/rebind.py seal embedding_cache ../trace/embedding_cache.onnx small.npz
end

begin transform.lm_head
compiler python3 -I /opt/hf2bmodel/compile/rebind.py shrink ../trace/lm_head.onnx 32000
compiler model_transform.py \
  --model_name lm_head \
  --model_def small.onnx \
  --mlir lm_head.mlir \
  --do_onnx_sim= \
  --not_inference
compiler python3 -I /opt/hf2bmodel/compile/rebind.py seal lm_head ../trace/lm_head.onnx small.npz
end

begin bind.embedding
exporter python -m exporters bind --model /models/stories15m --skeletons ../trace --group embedding
end

begin embedding
compiler python3 \
  -I /opt/hf2bmodel/compile/rebind.py bind ../transform.embedding ../bind.embedding/embedding.onnx \
  ../bind.embedding/weights.npz embedding -- model_transform.py \
  --model_name embedding \
  --model_def ../bind.embedding/embedding.onnx \
  --mlir embedding.mlir \
  --do_onnx_sim= \
  --not_inference
compiler model_deploy.py \
  --mlir embedding.mlir \
  --model embedding.bmodel \
  --chip bm1684x \
  --quantize BF16 \
  --quant_input \
  --quant_output \
  --num_core 1 \
  --num_device 1 \
  --addr_mode basic \
  --high_precision \
  --disable_gdma_check
compiler python3 -I /opt/hf2bmodel/compile/normalise.py embedding.bmodel
end

begin embedding_cache
compiler python3 \
  -I /opt/hf2bmodel/compile/rebind.py bind ../transform.embedding_cache \
  ../bind.embedding/embedding_cache.onnx ../bind.embedding/weights.npz embedding_cache -- \
  model_transform.py \
  --model_name embedding_cache \
  --model_def ../bind.embedding/embedding_cache.onnx \
  --mlir embedding_cache.mlir \
  --do_onnx_sim= \
  --not_inference
compiler model_deploy.py \
  --mlir embedding_cache.mlir \
  --model embedding_cache.bmodel \
  --chip bm1684x \
  --quantize BF16 \
  --quant_input \
  --quant_output \
  --num_core 1 \
  --num_device 1 \
  --addr_mode basic \
  --high_precision \
  --disable_gdma_check
compiler python3 -I /opt/hf2bmodel/compile/normalise.py embedding_cache.bmodel
end

begin join.embedding
exporter python \
  -m compile.combine \
  --bare embedding.bmodel ../embedding/embedding.bmodel ../embedding_cache/embedding_cache.bmodel
end

begin bind.head
exporter python -m exporters bind --model /models/stories15m --skeletons ../trace --group head
end

begin lm_head
compiler python3 \
  -I /opt/hf2bmodel/compile/rebind.py bind ../transform.lm_head ../bind.head/lm_head.onnx \
  ../bind.head/weights.npz lm_head -- model_transform.py \
  --model_name lm_head \
  --model_def ../bind.head/lm_head.onnx \
  --mlir lm_head.mlir \
  --do_onnx_sim= \
  --not_inference
compiler model_deploy.py \
  --mlir lm_head.mlir \
  --model lm_head.bmodel \
  --chip bm1684x \
  --quantize W8BF16 \
  --q_group_size 96 \
  --quant_input \
  --num_core 1 \
  --num_device 1 \
  --addr_mode basic \
  --high_precision \
  --disable_gdma_check
compiler python3 -I /opt/hf2bmodel/compile/normalise.py lm_head.bmodel
end

begin bind.layer_0
exporter python -m exporters bind --model /models/stories15m --skeletons ../trace --group layer_0
end

begin transform.block.0
compiler model_transform.py \
  --model_name block \
  --model_def ../bind.layer_0/block_0.onnx \
  --mlir block.mlir \
  --do_onnx_sim= \
  --not_inference
compiler python3 \
  -I /opt/hf2bmodel/compile/rebind.py seal block ../bind.layer_0/block_0.onnx \
  ../bind.layer_0/weights.npz
end

begin transform.block_cache.0
compiler model_transform.py \
  --model_name block_cache \
  --model_def ../bind.layer_0/block_cache_0.onnx \
  --mlir block_cache.mlir \
  --do_onnx_sim= \
  --not_inference
compiler python3 \
  -I /opt/hf2bmodel/compile/rebind.py seal block_cache ../bind.layer_0/block_cache_0.onnx \
  ../bind.layer_0/weights.npz
end

begin block_0
compiler python3 \
  -I /opt/hf2bmodel/compile/rebind.py bind ../transform.block.0 ../bind.layer_0/block_0.onnx \
  ../bind.layer_0/weights.npz block_0 -- model_transform.py \
  --model_name block_0 \
  --model_def ../bind.layer_0/block_0.onnx \
  --mlir block_0.mlir \
  --do_onnx_sim= \
  --not_inference
compiler model_deploy.py \
  --mlir block_0.mlir \
  --model block_0.bmodel \
  --chip bm1684x \
  --quantize W4BF16 \
  --q_group_size 32 \
  --quant_input \
  --quant_output \
  --num_core 1 \
  --num_device 1 \
  --addr_mode basic \
  --high_precision \
  --disable_gdma_check
compiler python3 -I /opt/hf2bmodel/compile/normalise.py block_0.bmodel
end

begin block_cache_0
compiler python3 \
  -I /opt/hf2bmodel/compile/rebind.py bind ../transform.block_cache.0 \
  ../bind.layer_0/block_cache_0.onnx ../bind.layer_0/weights.npz block_cache_0 -- model_transform.py \
  --model_name block_cache_0 \
  --model_def ../bind.layer_0/block_cache_0.onnx \
  --mlir block_cache_0.mlir \
  --do_onnx_sim= \
  --not_inference
compiler model_deploy.py \
  --mlir block_cache_0.mlir \
  --model block_cache_0.bmodel \
  --chip bm1684x \
  --quantize W4BF16 \
  --q_group_size 32 \
  --quant_input \
  --quant_output \
  --num_core 1 \
  --num_device 1 \
  --addr_mode io_alone \
  --high_precision \
  --disable_gdma_check
compiler python3 -I /opt/hf2bmodel/compile/normalise.py block_cache_0.bmodel
end

begin join.layer_0
exporter python \
  -m compile.combine \
  --bare layer_0.bmodel ../block_cache_0/block_cache_0.bmodel ../block_0/block_0.bmodel
end

begin bind.layer_1
exporter python -m exporters bind --model /models/stories15m --skeletons ../trace --group layer_1
end

begin block_1
compiler python3 \
  -I /opt/hf2bmodel/compile/rebind.py bind ../transform.block.0 ../bind.layer_1/block_1.onnx \
  ../bind.layer_1/weights.npz block_1 -- model_transform.py \
  --model_name block_1 \
  --model_def ../bind.layer_1/block_1.onnx \
  --mlir block_1.mlir \
  --do_onnx_sim= \
  --not_inference
compiler model_deploy.py \
  --mlir block_1.mlir \
  --model block_1.bmodel \
  --chip bm1684x \
  --quantize W4BF16 \
  --q_group_size 32 \
  --quant_input \
  --quant_output \
  --num_core 1 \
  --num_device 1 \
  --addr_mode basic \
  --high_precision \
  --disable_gdma_check
compiler python3 -I /opt/hf2bmodel/compile/normalise.py block_1.bmodel
end

begin block_cache_1
compiler python3 \
  -I /opt/hf2bmodel/compile/rebind.py bind ../transform.block_cache.0 \
  ../bind.layer_1/block_cache_1.onnx ../bind.layer_1/weights.npz block_cache_1 -- model_transform.py \
  --model_name block_cache_1 \
  --model_def ../bind.layer_1/block_cache_1.onnx \
  --mlir block_cache_1.mlir \
  --do_onnx_sim= \
  --not_inference
compiler model_deploy.py \
  --mlir block_cache_1.mlir \
  --model block_cache_1.bmodel \
  --chip bm1684x \
  --quantize W4BF16 \
  --q_group_size 32 \
  --quant_input \
  --quant_output \
  --num_core 1 \
  --num_device 1 \
  --addr_mode io_alone \
  --high_precision \
  --disable_gdma_check
compiler python3 -I /opt/hf2bmodel/compile/normalise.py block_cache_1.bmodel
end

begin join.layer_1
exporter python \
  -m compile.combine \
  --bare layer_1.bmodel ../block_cache_1/block_cache_1.bmodel ../block_1/block_1.bmodel
end

begin bind.layer_2
exporter python -m exporters bind --model /models/stories15m --skeletons ../trace --group layer_2
end

begin block_2
compiler python3 \
  -I /opt/hf2bmodel/compile/rebind.py bind ../transform.block.0 ../bind.layer_2/block_2.onnx \
  ../bind.layer_2/weights.npz block_2 -- model_transform.py \
  --model_name block_2 \
  --model_def ../bind.layer_2/block_2.onnx \
  --mlir block_2.mlir \
  --do_onnx_sim= \
  --not_inference
compiler model_deploy.py \
  --mlir block_2.mlir \
  --model block_2.bmodel \
  --chip bm1684x \
  --quantize W4BF16 \
  --q_group_size 32 \
  --quant_input \
  --quant_output \
  --num_core 1 \
  --num_device 1 \
  --addr_mode basic \
  --high_precision \
  --disable_gdma_check
compiler python3 -I /opt/hf2bmodel/compile/normalise.py block_2.bmodel
end

begin block_cache_2
compiler python3 \
  -I /opt/hf2bmodel/compile/rebind.py bind ../transform.block_cache.0 \
  ../bind.layer_2/block_cache_2.onnx ../bind.layer_2/weights.npz block_cache_2 -- model_transform.py \
  --model_name block_cache_2 \
  --model_def ../bind.layer_2/block_cache_2.onnx \
  --mlir block_cache_2.mlir \
  --do_onnx_sim= \
  --not_inference
compiler model_deploy.py \
  --mlir block_cache_2.mlir \
  --model block_cache_2.bmodel \
  --chip bm1684x \
  --quantize W4BF16 \
  --q_group_size 32 \
  --quant_input \
  --quant_output \
  --num_core 1 \
  --num_device 1 \
  --addr_mode io_alone \
  --high_precision \
  --disable_gdma_check
compiler python3 -I /opt/hf2bmodel/compile/normalise.py block_cache_2.bmodel
end

begin join.layer_2
exporter python \
  -m compile.combine \
  --bare layer_2.bmodel ../block_cache_2/block_cache_2.bmodel ../block_2/block_2.bmodel
end

begin bind.layer_3
exporter python -m exporters bind --model /models/stories15m --skeletons ../trace --group layer_3
end

begin block_3
compiler python3 \
  -I /opt/hf2bmodel/compile/rebind.py bind ../transform.block.0 ../bind.layer_3/block_3.onnx \
  ../bind.layer_3/weights.npz block_3 -- model_transform.py \
  --model_name block_3 \
  --model_def ../bind.layer_3/block_3.onnx \
  --mlir block_3.mlir \
  --do_onnx_sim= \
  --not_inference
compiler model_deploy.py \
  --mlir block_3.mlir \
  --model block_3.bmodel \
  --chip bm1684x \
  --quantize W4BF16 \
  --q_group_size 32 \
  --quant_input \
  --quant_output \
  --num_core 1 \
  --num_device 1 \
  --addr_mode basic \
  --high_precision \
  --disable_gdma_check
compiler python3 -I /opt/hf2bmodel/compile/normalise.py block_3.bmodel
end

begin block_cache_3
compiler python3 \
  -I /opt/hf2bmodel/compile/rebind.py bind ../transform.block_cache.0 \
  ../bind.layer_3/block_cache_3.onnx ../bind.layer_3/weights.npz block_cache_3 -- model_transform.py \
  --model_name block_cache_3 \
  --model_def ../bind.layer_3/block_cache_3.onnx \
  --mlir block_cache_3.mlir \
  --do_onnx_sim= \
  --not_inference
compiler model_deploy.py \
  --mlir block_cache_3.mlir \
  --model block_cache_3.bmodel \
  --chip bm1684x \
  --quantize W4BF16 \
  --q_group_size 32 \
  --quant_input \
  --quant_output \
  --num_core 1 \
  --num_device 1 \
  --addr_mode io_alone \
  --high_precision \
  --disable_gdma_check
compiler python3 -I /opt/hf2bmodel/compile/normalise.py block_cache_3.bmodel
end

begin join.layer_3
exporter python \
  -m compile.combine \
  --bare layer_3.bmodel ../block_cache_3/block_cache_3.bmodel ../block_3/block_3.bmodel
end

begin bind.layer_4
exporter python -m exporters bind --model /models/stories15m --skeletons ../trace --group layer_4
end

begin block_4
compiler python3 \
  -I /opt/hf2bmodel/compile/rebind.py bind ../transform.block.0 ../bind.layer_4/block_4.onnx \
  ../bind.layer_4/weights.npz block_4 -- model_transform.py \
  --model_name block_4 \
  --model_def ../bind.layer_4/block_4.onnx \
  --mlir block_4.mlir \
  --do_onnx_sim= \
  --not_inference
compiler model_deploy.py \
  --mlir block_4.mlir \
  --model block_4.bmodel \
  --chip bm1684x \
  --quantize W4BF16 \
  --q_group_size 32 \
  --quant_input \
  --quant_output \
  --num_core 1 \
  --num_device 1 \
  --addr_mode basic \
  --high_precision \
  --disable_gdma_check
compiler python3 -I /opt/hf2bmodel/compile/normalise.py block_4.bmodel
end

begin block_cache_4
compiler python3 \
  -I /opt/hf2bmodel/compile/rebind.py bind ../transform.block_cache.0 \
  ../bind.layer_4/block_cache_4.onnx ../bind.layer_4/weights.npz block_cache_4 -- model_transform.py \
  --model_name block_cache_4 \
  --model_def ../bind.layer_4/block_cache_4.onnx \
  --mlir block_cache_4.mlir \
  --do_onnx_sim= \
  --not_inference
compiler model_deploy.py \
  --mlir block_cache_4.mlir \
  --model block_cache_4.bmodel \
  --chip bm1684x \
  --quantize W4BF16 \
  --q_group_size 32 \
  --quant_input \
  --quant_output \
  --num_core 1 \
  --num_device 1 \
  --addr_mode io_alone \
  --high_precision \
  --disable_gdma_check
compiler python3 -I /opt/hf2bmodel/compile/normalise.py block_cache_4.bmodel
end

begin join.layer_4
exporter python \
  -m compile.combine \
  --bare layer_4.bmodel ../block_cache_4/block_cache_4.bmodel ../block_4/block_4.bmodel
end

begin bind.layer_5
exporter python -m exporters bind --model /models/stories15m --skeletons ../trace --group layer_5
end

begin block_5
compiler python3 \
  -I /opt/hf2bmodel/compile/rebind.py bind ../transform.block.0 ../bind.layer_5/block_5.onnx \
  ../bind.layer_5/weights.npz block_5 -- model_transform.py \
  --model_name block_5 \
  --model_def ../bind.layer_5/block_5.onnx \
  --mlir block_5.mlir \
  --do_onnx_sim= \
  --not_inference
compiler model_deploy.py \
  --mlir block_5.mlir \
  --model block_5.bmodel \
  --chip bm1684x \
  --quantize W4BF16 \
  --q_group_size 32 \
  --quant_input \
  --quant_output \
  --num_core 1 \
  --num_device 1 \
  --addr_mode basic \
  --high_precision \
  --disable_gdma_check
compiler python3 -I /opt/hf2bmodel/compile/normalise.py block_5.bmodel
end

begin block_cache_5
compiler python3 \
  -I /opt/hf2bmodel/compile/rebind.py bind ../transform.block_cache.0 \
  ../bind.layer_5/block_cache_5.onnx ../bind.layer_5/weights.npz block_cache_5 -- model_transform.py \
  --model_name block_cache_5 \
  --model_def ../bind.layer_5/block_cache_5.onnx \
  --mlir block_cache_5.mlir \
  --do_onnx_sim= \
  --not_inference
compiler model_deploy.py \
  --mlir block_cache_5.mlir \
  --model block_cache_5.bmodel \
  --chip bm1684x \
  --quantize W4BF16 \
  --q_group_size 32 \
  --quant_input \
  --quant_output \
  --num_core 1 \
  --num_device 1 \
  --addr_mode io_alone \
  --high_precision \
  --disable_gdma_check
compiler python3 -I /opt/hf2bmodel/compile/normalise.py block_cache_5.bmodel
end

begin join.layer_5
exporter python \
  -m compile.combine \
  --bare layer_5.bmodel ../block_cache_5/block_cache_5.bmodel ../block_5/block_5.bmodel
end

begin combine
exporter python \
  -m compile.combine stories15m_int4_seq256_bm1684x_1dev_no-sample.bmodel \
  ../join.embedding/embedding.bmodel ../join.layer_0/layer_0.bmodel ../join.layer_1/layer_1.bmodel \
  ../join.layer_2/layer_2.bmodel ../join.layer_3/layer_3.bmodel ../join.layer_4/layer_4.bmodel \
  ../join.layer_5/layer_5.bmodel ../lm_head/lm_head.bmodel
end

ln -f work/combine/stories15m_int4_seq256_bm1684x_1dev_no-sample.bmodel .
