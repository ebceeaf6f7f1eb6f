"""What conda packages are called on a Python index. Names that stand nowhere here are not guessed: a package of the
same name on an index may be another one, and somebody else's."""

from __future__ import annotations

#: conda name -> name on a Python index (None: part of another package there, or of none).
OTHER_NAMES: dict[str, str | None] = {
    "pytorch": "torch",
    "pytorch-cpu": "torch",
    "pytorch-gpu": "torch",
    "torchvision-cpu": "torchvision",
    "py-xgboost": "xgboost",
    "py-xgboost-cpu": "xgboost",
    "py-xgboost-gpu": "xgboost",
    "py-xgboost-mutex": None,
    "libxgboost": None,
    "opencv": "opencv-python-headless",
    "py-opencv": "opencv-python-headless",
    "msgpack-python": "msgpack",
    "tensorflow-base": "tensorflow",
    "tensorflow-cpu": "tensorflow",
    "numpy-base": None,
    "matplotlib-base": "matplotlib",
    "seaborn-base": "seaborn",
    "mlflow-ui": None,
    "onnxruntime-cpp": None,
    "onnxruntime-cpu": "onnxruntime",
    "pyarrow-core": "pyarrow",
    "arrow-cpp": None,
    "graphviz": None,
    "python-graphviz": "graphviz",
    "python-flatbuffers": "flatbuffers",
    "python-kubernetes": "kubernetes",
    "python-xxhash": "xxhash",
    "python-lmdb": "lmdb",
    "python-blosc": "blosc",
    "pytables": "tables",
    "dask-core": "dask",
    "psycopg2": "psycopg2-binary",
    "brotli-python": "Brotli",
    "cudatoolkit": None,
    "cpuonly": None,
    "pytorch-mutex": None,
    "pytorch-cuda": None,
    "tk": None,
    "python-tzdata": "tzdata",
    "python-isal": "isal",
}

#: Same name on both, normalised.
SAME_NAMES = frozenset(
    """
    absl-py accelerate aif360 aiohttp aiosignal alembic alibi alibi-detect altair annotated-types
    antlr4-python3-runtime anyio appdirs argon2-cffi arrow asn1crypto asttokens astunparse async-timeout attrs
    attrs-strict azure-core azure-identity azure-storage-blob babel backcall backoff
    backports-functools-lru-cache backports-zoneinfo bcrypt beautifulsoup4 bentoml black bleach blinker blis
    bokeh boltons boto3 botocore bottleneck brotlipy bs4 cached-property cachetools catboost category-encoders
    cchardet certifi cffi chardet charset-normalizer click cloudpickle colorama contourpy coverage cryptography
    cycler cymem cython cytoolz databricks-cli databricks-sdk dataclasses dataclasses-json datasets dateparser
    debugpy decorator defusedxml deprecated dill distributed docker docutils dtreeviz einops eli5 entrypoints
    et-xmlfile evaluate exceptiongroup executing fairlearn fastai fastapi fastcore fastparquet fbprophet
    featuretools filelock flake8 flask flask-cors flatbuffers fonttools frozenlist fsspec funcsigs future gast
    gensim geopandas geopy gevent gitdb gitpython google-api-core google-auth google-auth-oauthlib
    google-cloud-storage google-pasta googleapis-common-protos gputil gpy graphene great-expectations greenlet
    grpcio gunicorn h11 h2 h5py haversine hdbscan holidays html5lib httpcore httplib2 httpx huggingface-hub
    humanfriendly hyperopt idna imageio imbalanced-learn importlib-metadata importlib-resources iniconfig
    interpret ipykernel ipython ipywidgets isodate isort itsdangerous jedi jinja2 jmespath joblib json5
    jsonpatch jsonschema jupyter-client jupyter-core keras keras-applications keras-preprocessing kiwisolver
    langcodes libclang libcst librosa libsass lifelines lightfm lightgbm lightning lime llvmlite loguru lxml lz4
    mako mapie markdown markdown-it-py markupsafe matplotlib matplotlib-inline mdurl mlflow mlflow-skinny
    mlxtend more-itertools mpmath multidict multiprocess murmurhash mypy-extensions mysql-connector-python
    nbconvert nbformat nest-asyncio networkx ngboost nltk notebook numba numcodecs numexpr numpy oauthlib onnx
    onnxconverter-common onnxmltools onnxruntime opencv-python-headless openpyxl opt-einsum optuna orjson
    packaging pandas pandas-profiling paramiko parso partd pathos pathspec patsy pexpect pickleshare pillow
    platformdirs plotly pluggy pmdarima polars preshed prometheus-client prometheus-flask-exporter
    prompt-toolkit prophet protobuf psutil ptyprocess pure-eval pyarrow pyasn1 pyasn1-modules pycparser pydantic
    pydantic-core pydot pygments pyjwt pymongo pymysql pynndescent pyod pyopenssl pyparsing pyproj pyrsistent
    pysocks pyspark pytest python-dateutil python-dotenv python-multipart python-snappy pytorch-lightning pytz
    pywavelets pyyaml pyzmq querystring-parser rasterio ray regex requests requests-oauthlib rich river rsa
    ruamel-yaml s3fs s3transfer sacremoses safetensors scikit-base scikit-image scikit-learn scikit-learn-extra
    scikit-optimize scikit-plot scipy seaborn sentence-transformers sentencepiece sentry-sdk shap shapely
    shellingham simplejson six skl2onnx skops skorch sktime slicer smart-open smmap sniffio snowballstemmer
    sortedcontainers soupsieve spacy spacy-legacy spacy-loggers sqlalchemy sqlparse srsly stack-data starlette
    statsmodels sympy tabulate tblib tenacity tensorboard tensorflow tensorflow-estimator tensorflow-hub
    termcolor textblob thinc threadpoolctl tifffile tokenizers toml tomli toolz torchaudio torchmetrics
    torchvision tornado tpot tqdm traitlets transformers treeinterpreter tsfresh typer typing-extensions
    typing-inspect tzdata tzlocal ujson umap-learn unidecode urllib3 uvicorn waitress wandb wasabi wcwidth
    webencodings websocket-client websockets werkzeug widgetsnbextension wordcloud wrapt xarray xformers xgboost
    xlrd xlsxwriter yarl zarr zipp zstandard
    """.split()  # noqa: SIM905
)

#: No Python package and nothing that a wheel would miss: compilers' run times, C libraries, tools.
NOT_PYTHON = frozenset(
    """
    aom blas blas-devel blosc boost-cpp brotli brotli-bin bzip2 c-ares c-blosc2 ca-certificates cairo compilers
    conda cuda cudnn curl dbus expat ffmpeg fftw font-ttf-dejavu-sans-mono fontconfig freetype freexl fribidi
    gcc gettext gflags gfortran giflib glib glog gmp gnutls graphite2 gsl gst-plugins-base gstreamer gxx
    harfbuzz hdf5 icu intel-openmp jpeg jq json-c keyutils krb5 lame lcms2 ld_impl_linux-64 lerc llvm-openmp
    lz4-c make mkl mkl-service mkl_fft mkl_random mpc mpfr mysql-common ncurses nettle ninja nodejs nomkl nspr
    nss openblas openh264 openjpeg openldap openmp openssl orc p11-kit pandoc pcre pcre2 perl pip pixman
    pkg-config popt postgresql proj pthread-stubs python_abi qhull qt qt-main re2 readline s2n setuptools snappy
    sqlite svt-av1 tbb tini tktable tzcode tzdata unixodbc vc vs2015_runtime wheel x264 x265 xz yaml yaml-cpp
    zeromq zlib zlib-ng zstd
    """.split()  # noqa: SIM905
)
#: Prefixes of the like.
NOT_PYTHON_PREFIXES = (
    "lib",
    "_",
    "gcc_",
    "gxx_",
    "gfortran_",
    "binutils",
    "sysroot_",
    "cuda-",
    "xorg-",
    "aws-c-",
    "aws-checksums",
    "aws-crt-cpp",
    "aws-sdk-cpp",
    "azure-core-cpp",
    "font-",
    "fonts-",
    "kernel-headers",
    "ucrt",
)
